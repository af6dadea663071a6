"""The names that a network's tensors have in the releases of the papers.

The names come from the public releases as of 2026: Tied Block Convolution (three layers), SPConv (ResNet-50), the filter bases
(CIFAR and ImageNet networks), soft sharing (SWRN), and the PyTorch version of Octave Convolution. No code of them is copied.
Each operator gives the names of its own layer (`leanconv.core.release`); this file gives the names of whole networks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import nn

from leanconv.core.release import NamedLayer, Place, Released

FILTER_BASES = re.compile(r"(^|\.)(basis_conv\d|basis_bn\d|coeff_conv\d|shared_basis\w*)\.")

Rename = tuple[str, str | Callable[[re.Match[str]], str]]


def _less(text: str) -> Callable[[re.Match[str]], str]:
    """A function of a match that formats `text` with the match's groups, whose numbers then count from 0, not from 1."""
    return lambda match: text.format(*(int(group) - 1 for group in match.groups()))


# The layers of a dense block that is a list: normalisation, ReLU and convolution, twice
DENSE_PARTS = {part: f"residual_function.{n}" for part, n in (("norm1", 0), ("conv1", 2), ("norm2", 3), ("conv2", 5))}
DENSE_BLOCKS: tuple[tuple[str, dict[str, str]], ...] = (
    ("features.dense_block_layer_{}.bottle_neck_layer_{}.", {"norm1": "bn0", "norm2": "bn1"}),
    ("features.dense_block_layer_{}.bottle_neck_layer_{}.", DENSE_PARTS),
    ("features.dense_block{}.bottle_neck_layer_{}.", DENSE_PARTS),
)


def _dense_net(block: str, parts: dict[str, str]) -> tuple[Rename, ...]:
    """The filter bases' DenseNet: the last block has another name in the dense network, and its layers are lists."""
    return (
        (r"^features\.conv0\.", "conv1."),
        (r"^features\.norm5\.", "features.bn."),
        (r"^classifier\.", "linear."),
        (r"^features\.transition(\d)\.norm\.", _less("features.transition_layer_{}.down_sample.0.")),
        (r"^features\.transition(\d)\.conv\.", _less("features.transition_layer_{}.down_sample.1.")),
        (r"^features\.denseblock(\d)\.denselayer(\d+)\.", _less(block)),
        *((rf"(bottle_neck_layer_\d+)\.{own}\.", rf"\1.{other}.") for own, other in parts.items()),
    )


# Naming conventions of whole networks, ours first. All lines of a convention are applied in turn. A convention that changes
# no name adds no name.
CONVENTIONS: tuple[tuple[Rename, ...], ...] = (
    ((r"\bdownsample\.", "shortcut."),),
    ((r"\bshortcut\.", "downsample."),),
    *(
        ((rf"^{own}\.", f"{other}."),)
        for own in ("fc", "classifier", "head.fc", "head")
        for other in ("fc", "linear", "classifier", "classifier.1", "head", "head.fc", "last_linear")
        if own != other
    ),
    (  # the filter bases' MobileNetV2
        (r"^layer([17])\.0\.", r"stage\1."),
        (r"^layer(\d)\.", r"stage\1."),
        (r"^conv1\.", "pre.0."),
        (r"^bn1\.", "pre.1."),
        (r"^head_conv\.", "conv1.0."),
        (r"^head_bn\.", "conv1.1."),
        (r"^fc\.", "conv2."),  # for small images: a 1x1 convolution
    ),
    (  # the filter bases' ResNeXt, whose dense blocks are a list
        (r"^(layer\d\.\d+)\.conv([123])\.", lambda m: f"{m[1]}.residual_function.{3 * int(m[2]) - 3}."),
        (r"^(layer\d\.\d+)\.bn([123])\.", lambda m: f"{m[1]}.residual_function.{3 * int(m[2]) - 2}."),
    ),
    *(_dense_net(block, parts) for block, parts in DENSE_BLOCKS),
    (  # SWRN
        (r"^conv1\.", "conv_3x3."),
        (r"^layer(\d)\.", r"stage_\1."),
        (r"\bshortcut\.", "convShortcut."),
        (r"^bn\.", "lastact.0."),
        (r"^fc\.", "classifier."),
    ),
    (  # Octave Convolution
        (r"\bentry\.", "conv1."),
        (r"\bk3\.", "conv2."),
        (r"\bexit\.", "conv3."),
        (r"\bshortcut\.", "downsample.0."),
        (r"\bconv\.(h|l)\w+_to_(h|l)\w+\.", r"conv.conv_\g<1>2\2."),
        (r"\b(h)igh\.|\b(l)ow\.", lambda m: f"bn_{m[1] or m[2]}."),
    ),
)


def places(model: nn.Module) -> list[Place]:
    """The names that each tensor of `model` may have in a release; a shared tensor appears once for each layer that uses it.

    >>> from torch import nn
    >>> from collections import OrderedDict
    >>> place = places(nn.Sequential(OrderedDict(fc=nn.Linear(2, 1))))[0]
    >>> place.ours, place.theirs[:3]
    ('fc.weight', ('fc.weight', 'linear.weight', 'classifier.weight'))
    """
    return [replace(place, theirs=_renamed(place.theirs)) for place in _plain(model)]


def _renamed(names: tuple[str, ...]) -> tuple[str, ...]:
    found = dict.fromkeys(names)
    for convention in CONVENTIONS:
        for name in names:
            for pattern, other in convention:
                name = re.sub(pattern, other, name)
            found.setdefault(name)
    return tuple(found)


def _plain(model: nn.Module) -> Iterator[Place]:
    """The places before the naming conventions of whole networks."""
    owners = {id(module): name for name, module in model.named_modules()}
    seen: Counter[str] = Counter()
    covered: set[str] = set()
    for name, module in model.named_modules():
        if not isinstance(module, Released):
            continue
        keys = tuple(f"{name}.{key}".strip(".") for key in module.state_dict())  # type: ignore[attr-defined]
        if keys and keys[0] not in covered:
            covered |= set(keys)
            yield from module.release_places(NamedLayer(name, name.rpartition(".")[0], keys, owners, seen))
    yield from (Place(name, (name,)) for name in model.state_dict() if name not in covered)
