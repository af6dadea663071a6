"""The names that a network's tensors have in the releases of the papers, and what those networks do otherwise than ours.

Looked up in the public releases as of 2026: Tied Block Convolution (three layers), SPConv (ResNet-50), the filter bases
(CIFAR and ImageNet networks), soft sharing (SWRN), and the PyTorch rebuild of Octave Convolution. Nothing of them is copied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from leanconv.models.bases import SharedGroupedConv2d
from leanconv.ops.attention import TiedSE
from leanconv.ops.depth_shared import DepthSharedConv2d
from leanconv.ops.shared_basis import SharedBasisConv2d
from leanconv.ops.soft_shared import SoftSharedConv2d
from leanconv.ops.split import SplitConv2d
from leanconv.ops.tied_block import TiedBlockConv2d
from leanconv.ops.tied_linear import TiedBlockLinear

# Parts of a layer: ours, and the release's below the layer's name
Names = dict[str, tuple[str, ...]]
TIED_CONV: Names = {"": ("conv.",)}
TIED_LINEAR: Names = {"": ("linear.", "fc.")}
TIED_SE: Names = {"squeeze.": ("fc.0.",), "expand.": ("fc.2.",)}
SPLIT: Names = {
    "grouped.": ("gwc.",),
    "point.": ("pwc.",),
    "redundant.": ("conv1x1.",),
    "norm3.": ("bn1.",),
    "norm1.": ("bn2.",),
}
# A basis convolution stands in its block beside the others: ours below conv1, the release's below the block
BASIS = {"unique": "basis_conv{n}.weight", "norm.": "basis_bn{n}.", "coefficients": "coeff_conv{n}.weight"}
FILTER_BASES = re.compile(r"(^|\.)(basis_conv\d|basis_bn\d|coeff_conv\d|shared_basis\w*)\.")

Rename = tuple[str, str | Callable[[re.Match[str]], str]]


def _less(text: str) -> Callable[[re.Match[str]], str]:
    """`text` with the groups of a match, numbers counted from 0 in place of 1."""
    return lambda match: text.format(*(int(group) - 1 for group in match.groups()))


# The layers of a dense block that is a list: normalise, ReLU, convolve, twice
DENSE_PARTS = {part: f"residual_function.{n}" for part, n in (("norm1", 0), ("conv1", 2), ("norm2", 3), ("conv2", 5))}
# Conventions of whole networks, ours first; all lines of one are applied in turn. Where one changes nothing it has no name.
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
    *(
        (  # the filter bases' DenseNet: the last block of the dense one is called otherwise, its layers are lists
            (r"^features\.conv0\.", "conv1."),
            (r"^features\.norm5\.", "features.bn."),
            (r"^classifier\.", "linear."),
            (r"^features\.transition(\d)\.norm\.", _less("features.transition_layer_{}.down_sample.0.")),
            (r"^features\.transition(\d)\.conv\.", _less("features.transition_layer_{}.down_sample.1.")),
            (r"^features\.denseblock(\d)\.denselayer(\d+)\.", _less(block)),
            *((rf"(bottle_neck_layer_\d+)\.{own}\.", rf"\1.{other}.") for own, other in parts.items()),
        )
        for block, parts in (
            ("features.dense_block_layer_{}.bottle_neck_layer_{}.", {"norm1": "bn0", "norm2": "bn1"}),
            ("features.dense_block_layer_{}.bottle_neck_layer_{}.", DENSE_PARTS),
            ("features.dense_block{}.bottle_neck_layer_{}.", DENSE_PARTS),
        )
    ),
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


@dataclass(frozen=True)
class Place:
    """Where one of a network's tensors stands in a checkpoint.

    Args:
        ours: its name in the network.
        theirs: the names it may have in the checkpoint, likeliest first.
        rows: (first, all) where the checkpoint holds a part of it, for one of the layers that share it.
        everywhere: the checkpoint may hold it under several of the names.
        unless: why it cannot be taken under another name than ours.
    """

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, int] | None = None
    everywhere: bool = False
    unless: str | None = None


def places(model: nn.Module) -> list[Place]:
    """Where each tensor of `model` may stand; a shared one once for every layer that uses it."""
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
    """The places before the conventions of whole networks."""
    owners = {id(module): name for name, module in model.named_modules()}
    covered: set[str] = set()
    counts: dict[str, int] = {}  # how many sharing convolutions of a block were seen
    for name, module in model.named_modules():
        own = [f"{name}.{key}".strip(".") for key in module.state_dict()]
        if not own or own[0] in covered:
            continue
        block, _, last = name.rpartition(".")
        parts = _parts(module)
        if parts is not None:
            covered |= set(own)
            for key in own:
                relative = key[len(name) + 1 :] if name else key
                ours, theirs = next((o, t) for o, t in parts.items() if relative.startswith(o))
                released = (f"{name}.{part}{relative[len(ours) :]}".strip(".") for part in theirs)
                yield Place(key, (key, *released), unless=_other_order(module, name))
        elif isinstance(module, SharedBasisConv2d | DepthSharedConv2d):
            covered |= set(own)
            counts[block] = counts.get(block, 0) + 1
            yield from _shared(module, name, block, counts[block], own, owners)
        elif isinstance(module, SharedGroupedConv2d):
            covered |= set(own)
            yield from _shared(module.shared, f"{name}.shared", block, 1, own, owners)
            number = re.sub(r"\D", "", last)
            yield Place(f"{name}.unique.weight", (f"{name}.unique.weight", f"{block}.basis_conv{number}.weight"))
        elif isinstance(module, SoftSharedConv2d):
            covered |= set(own)
            yield from (Place(key, (key,)) for key in own if ".bank." not in key)
            bank = f"{owners[id(module.bank)]}.weight"
            names = (bank, f"{name}.bank.weight", f"{name}.bank.templates", f"{block}.bank.templates".strip("."))
            yield Place(bank, names, (0, len(module.bank.weight)), everywhere=True)
    yield from (Place(name, (name,)) for name in model.state_dict() if name not in covered)


def _parts(module: nn.Module) -> Names | None:
    if isinstance(module, TiedBlockConv2d):
        return TIED_CONV
    if isinstance(module, TiedBlockLinear):
        return TIED_LINEAR
    if isinstance(module, TiedSE):
        return TIED_SE
    return SPLIT if isinstance(module, SplitConv2d) else None


def _other_order(module: nn.Module, name: str) -> str | None:
    if not isinstance(module, TiedBlockConv2d) or module.groups == 1 or module.blocks == 1:
        return None
    return (
        f"has weights for {name!r} of groups={module.groups}: the release orders its channels by block first, the paper and "
        "leanconv by group first, so that its weights compute something else here"
    )


def _shared(module: Any, name: str, block: str, count: int, own: list[str], owners: dict[int, str]) -> Iterator[Place]:
    """A convolution on a shared basis, or one that is shared whole: the `count`-th of its block in the release."""
    inside = f"{block}." if block else ""
    bases = tuple(f"{inside}shared_basis{suffix}.weight" for suffix in (f"_{count}", str(count), ""))
    if isinstance(module, DepthSharedConv2d):
        bank = owners[id(module.bank)]
        yield Place(f"{bank}.weight", (f"{bank}.weight", *bases), (0, len(module.bank.weight)))
        kept = (key for key in own if key.startswith(f"{name}.") and key != f"{name}.bank.weight")
        yield from (Place(key, (key,)) for key in kept)
        return
    number = re.sub(r"\D", "", name.rpartition(".")[2])
    for key in own:
        relative = key[len(name) + 1 :]
        for ours, theirs in BASIS.items():
            if relative.startswith(ours):
                yield Place(key, (key, inside + theirs.format(n=number) + relative[len(ours) :]))
    yield from (Place(key, (key,)) for key in own if key == f"{name}.bias")
    if module.shared:
        total, basis = len(module.basis.weight), f"{owners[id(module.basis)]}.weight"
        rows = (module.index * module.shared, total)
        yield Place(basis, (basis, *bases), rows)
