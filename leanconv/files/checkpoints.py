"""Checkpoints of others: a network's state dict, or the same weights under the names of a paper's own release."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from leanconv.core.base import unwrapped
from leanconv.core.errors import FileError, first_line
from leanconv.core.state import versioned
from leanconv.files.load import some
from leanconv.ops.attention import TiedSE
from leanconv.ops.depth_shared import DepthSharedConv2d
from leanconv.ops.shared_basis import SharedBasisConv2d
from leanconv.ops.split import SplitConv2d
from leanconv.ops.tied_block import TiedBlockConv2d
from leanconv.ops.tied_linear import TiedBlockLinear

# Parts of a layer: ours, and the release's below the layer's name
TIED_SE = {"squeeze.": "fc.0.", "expand.": "fc.2."}
SPLIT = {"grouped.": "gwc.", "point.": "pwc.", "redundant.": "conv1x1.", "norm3.": "bn1.", "norm1.": "bn2."}
# A basis convolution stands in its block beside the others: ours below conv1, the release's below the block
BASIS = {"unique": "basis_conv{n}.weight", "norm.": "basis_bn{n}.", "coefficients": "coeff_conv{n}.weight"}
# Layers of the networks around them: ours, and the releases'
HOSTS = (
    (r"\bdownsample\.", "shortcut."),
    (r"^fc\.", "linear."),
    (r"^fc\.", "classifier.1."),
    (r"^conv1\.", "pre.0."),  # and on: MobileNetV2's stem, stages and head
    (r"^bn1\.", "pre.1."),
    (r"^head_conv\.", "conv1.0."),
    (r"^head_bn\.", "conv1.1."),
    (r"^layer([17])\.0\.", r"stage\1."),
    (r"^layer(\d)\.", r"stage\1."),
)
COUNTER = "num_batches_tracked"  # of norms; older checkpoints have none


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Fill `model` from a checkpoint that leanconv did not write; every tensor must find its place.

    It holds the network's own names, or those of the release of its paper: the layers of Tied Block Convolution
    (``conv.weight``, ``fc.0``), SPConv (``gwc``, ``pwc``, ``conv1x1``, ``bn1``, ``bn2``) and the filter bases
    (``shared_basis_*``, ``basis_conv1``, ``basis_bn1``, ``coeff_conv1``), with ``shortcut``, ``linear`` or ``stage1`` around
    them. A dense checkpoint goes into the dense network, and ``convert(..., init="fit")`` makes lean weights of it.

    Args:
        path: a safetensors file, or one of torch.save, read with ``weights_only=True``. A ``state_dict`` inside it and a
            ``module.`` before names are looked through.

    Raises:
        FileError: it cannot be read without running code, or its tensors are not those of `model`, which stays as it was.
    """
    path = Path(path)
    model = unwrapped(model)
    release = read_state(path)
    state, used = _translated(model, release, path)
    own = model.state_dict()
    missing = [name for name in own if name not in state and not name.endswith(COUNTER)]
    extra = [name for name in release if name not in used and not name.endswith(COUNTER)]
    for what, names in (("has nothing for", missing), ("has what this network does not take,", extra)):
        if names:
            raise FileError(f"{path.name} {what} {some(names)}; build the network that it was saved from")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise FileError(
                f"{path.name}: what belongs into {name!r} has shape {tuple(tensor.shape)} and not {tuple(own[name].shape)}; "
                "build the network with the settings it was trained with"
            )
    model.load_state_dict(versioned(model, own | state), strict=True)
    return model


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without the ``module.`` of data parallel training.

    Raises:
        FileError: it is missing, broken, or holds anything but tensors, numbers and texts.
    """
    if not path.is_file():
        raise FileError(f"no file {path}; give the checkpoint that the release offers")
    try:
        found: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path.name} cannot be read ({error}); fetch it again") from error
    except Exception as error:  # what unpickling raises is unbounded
        reason = first_line(error)
        raise FileError(
            f"{path.name} cannot be read without running its code ({reason[:200]}); save its state dict alone with torch.save"
        ) from error
    states = [value for value in (found, *_values(found)) if _is_state(value)]
    if len(states) != 1:
        raise FileError(f"{path.name} holds {len(states)} state dicts and not one; save the network's alone")
    return {name.removeprefix("module."): tensor for name, tensor in states[0].items() if isinstance(tensor, Tensor)}


def _values(found: Any) -> list[Any]:
    return list(found.values()) if isinstance(found, dict) else []


def _is_state(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    return sum(isinstance(v, Tensor) for v in value.values()) > max(1, len(value) // 2)


def _translated(model: nn.Module, release: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], set[str]]:
    """The release's tensors under our names, and which of its names were used."""
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    banks: dict[str, Tensor] = {}  # by our names, put together from the layers that use them
    for ours, theirs, rows in _names(model):
        name = next((name for name in theirs if name in release), None)
        if name is None:
            continue
        used |= {other for other in theirs if other in release}
        tensor = release[name]
        if rows is None:
            state[ours] = tensor
            continue
        start, total = rows
        bank = banks.setdefault(ours, tensor.new_full((total, *tensor.shape[1:]), float("nan")))
        part = bank[start : start + len(tensor)]
        if part.shape != tensor.shape:
            raise FileError(
                f"{path.name}: {name!r} has {len(tensor)} filters; this network's bases have another number"
            )
        if not part.isnan().all() and not torch.equal(part, tensor):
            raise FileError(f"{path.name}: {name!r} is not shared as in this network; build the one it was saved from")
        part.copy_(tensor)
    state |= {name: bank for name, bank in banks.items() if not bank.isnan().any()}
    # the releases hold a shared basis at the root as well as in each block
    shared = {name for name in release if re.match(r"shared_basis\w*\.weight$", name)}
    return state, used | {
        name for name in shared if any(_same(release[name], release[other]) for other in used - shared)
    }


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _names(model: nn.Module) -> Iterator[tuple[str, list[str], tuple[int, int] | None]]:
    """(our name, the names it may have in a release, (first row, rows in all) where it is a part of a bank)."""
    owners = {id(module): name for name, module in model.named_modules()}
    covered: set[str] = set()
    places: dict[str, int] = {}  # how many sharing convolutions of a block were seen
    for name, module in model.named_modules():
        block, _, last = name.rpartition(".")
        inside = f"{block}." if block else ""
        own = [f"{name}.{key}" for key in module.state_dict()]
        parts: dict[str, str] | None = None
        if isinstance(module, TiedBlockConv2d | TiedBlockLinear) and name not in covered:
            _refuse_groups(module, name)
            parts = {"": "conv."} if isinstance(module, TiedBlockConv2d) else {"": "fc."}
        elif isinstance(module, TiedSE):
            parts = TIED_SE
            covered |= {f"{name}.squeeze", f"{name}.expand"}
        elif isinstance(module, SplitConv2d):
            parts = SPLIT
        if parts is not None:
            covered |= set(own)
            for key in own:
                relative = key[len(name) + 1 :]
                ours, theirs = next((o, t) for o, t in parts.items() if relative.startswith(o))
                yield key, [f"{name}.{theirs}{relative[len(ours) :]}"], None
        elif isinstance(module, SharedBasisConv2d | DepthSharedConv2d):
            covered |= set(own)
            places[block] = places.get(block, 0) + 1
            names = [f"{inside}shared_basis{suffix}.weight" for suffix in (f"_{places[block]}", str(places[block]), "")]
            if isinstance(module, DepthSharedConv2d):
                yield f"{owners[id(module.bank)]}.weight", names, None
                continue
            digits = re.sub(r"\D", "", last)
            for key in own:
                relative = key[len(name) + 1 :]
                for ours, theirs in BASIS.items():
                    if relative.startswith(ours):
                        yield key, [inside + theirs.format(n=digits) + relative[len(ours) :]], None
            if module.shared:
                rows = (module.index * module.shared, len(module.basis.weight))
                yield f"{owners[id(module.basis)]}.weight", names, rows
    for name in model.state_dict():
        if name not in covered:
            yield name, [name, *(re.sub(ours, theirs, name) for ours, theirs in HOSTS if re.search(ours, name))], None


def _refuse_groups(module: nn.Module, name: str) -> None:
    if isinstance(module, TiedBlockConv2d) and module.groups > 1 and module.blocks > 1:
        raise FileError(
            f"{name!r} has groups={module.groups}: the release orders its channels by block first, the paper and leanconv by "
            "group first, so that its weights compute something else here"
        )
