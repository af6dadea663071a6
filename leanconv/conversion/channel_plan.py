"""Channel plans: which channels of a network stay, in which order, and which blocks are removed, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.conversion.apply import swap
from leanconv.conversion.channels import ChannelSet, ranges, unranged
from leanconv.core.errors import FileError, SettingError
from leanconv.core.reading import levels, one_line
from leanconv.core.record import get_record, set_record
from leanconv.core.storage import Memory, memory_of
from leanconv.core.wrappers import unwrapped

DEEPEST, MOST = 12, 5_000_000  # levels and values in the file of a channel plan


@dataclass(frozen=True, slots=True)
class Selection:
    """What stays of one set of channels: the new channel i is the old channel ``index[i]``.

    Raises:
        SettingError: `index` is empty, names a channel twice or one that the set does not have, or does not keep equally
            many channels of each cell, each in its cell.
    """

    set: ChannelSet
    index: tuple[int, ...]

    def __post_init__(self) -> None:
        name, size = self.set.name, self.set.size
        if not self.index or len(set(self.index)) < len(self.index) or not all(0 <= i < size for i in self.index):
            raise SettingError(f"{name!r} has the channels 0..{size - 1}; keep at least one, and each once at most")
        cells = self.set.cells
        if cells:
            kept = [[i for i in self.index if cells[i] == cell] for cell in range(max(cells) + 1)]
            moved = any(cells[old] != cells[new] for old, new in zip(self.index, sorted(self.index), strict=True))
            if (
                moved
                or len({len(part) * size // whole for part, whole in zip(kept, self.set.cell_sizes(), strict=True)}) > 1
            ):
                raise SettingError(
                    f"{name!r} has {len(kept)} cells of channels that a grouped layer keeps apart; keep equally many of each, "
                    "each in its cell"
                )


@dataclass(frozen=True, slots=True)
class ChannelPlan:
    """One step from a network to a narrower or shallower one: data, without weights.

    Args:
        selections: what stays of each set that changes.
        removed: names of residual blocks that become ``nn.Identity``.
    """

    selections: tuple[Selection, ...] = ()
    removed: tuple[str, ...] = ()

    def under(self, prefix: str) -> ChannelPlan:
        """The plan for a network that holds this plan's network under the name `prefix`."""
        if not prefix:
            return self

        def moved(found: ChannelSet) -> ChannelSet:
            places = tuple(replace(place, tensor=f"{prefix}.{place.tensor}") for place in found.places)
            return replace(found, name=f"{prefix}.{found.name}", places=places)

        selections = tuple(Selection(moved(item.set), item.index) for item in self.selections)
        return ChannelPlan(selections, tuple(f"{prefix}.{name}" for name in self.removed))

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values; `from_json` returns an equal plan, without what is only for choosing."""
        found = [{"set": item.set.to_json(), "index": ranges(item.index)} for item in self.selections]
        return {"selections": found, "removed": list(self.removed)}

    @classmethod
    def from_json(cls, value: Any) -> ChannelPlan:
        """The plan that `to_json` wrote.

        Raises:
            FileError: a part is missing or of a wrong type.
        """
        try:
            if sum(len(level) for level in levels(value, DEEPEST)) > MOST:
                raise ValueError(f"it has over {MOST:,} values")
            found = [(ChannelSet.from_json(item["set"]), unranged(item["index"])) for item in value["selections"]]
            return cls(tuple(Selection(*pair) for pair in found), tuple(str(name) for name in value["removed"]))
        except Exception as error:  # the values are untrusted and may raise anything
            raise FileError(one_line(f"not a channel plan: {error}; write it with ChannelPlan.to_json")) from error

    def __str__(self) -> str:
        before = sum(item.set.size for item in self.selections)
        after = sum(len(item.index) for item in self.selections)
        removed = f", and {len(self.removed)} blocks are removed" if self.removed else ""
        return f"ChannelPlan: {after:,} of {before:,} channels stay, in {len(self.selections)} sets{removed}"


def channel_plans(model: nn.Module) -> tuple[ChannelPlan, ...]:
    """The channel plans that were applied to `model` and to the networks inside it, in their order; () for others."""
    found: list[ChannelPlan] = []
    inside = sorted(unwrapped(model).named_modules(), key=lambda item: -len(item[0].split(".") if item[0] else ()))
    for name, module in inside:  # a part was narrower before it became a part
        for plan in get_record(module).channels:
            assert isinstance(plan, ChannelPlan)
            found.append(plan.under(name))
    return tuple(found)


def apply_channels_(model: nn.Module, plan: ChannelPlan) -> nn.Module:
    """Make `model` what the plan says, in place, and record the plan; the module that results is returned.

    Weights keep their identity, device, dtype and flags; gradients are dropped. The layers get their new `in_channels`,
    `out_channels`, `groups`, `num_features` and so on.

    Raises:
        SettingError: the plan was made for another network.
    """
    model = unwrapped(model)
    _select_(model, plan.selections)
    for name in plan.removed:
        _remove_(model, name)
    if plan.removed or any(
        len(item.index) < item.set.size for item in plan.selections
    ):  # an order alone changes no shape
        record = get_record(model)
        set_record(model, replace(record, channels=(*record.channels, plan)))
    return model


def _remove_(model: nn.Module, name: str) -> None:
    try:
        block = model.get_submodule(name)
    except AttributeError:
        block = None
    if not name or block is None:
        raise SettingError(f"the plan removes {name!r}, which {type(model).__name__} does not have; plan this model")
    swap(model, {id(block): nn.Identity().train(block.training)})


@torch.no_grad()
def _select_(model: nn.Module, kept: Sequence[Selection]) -> None:
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    for item in kept:
        for place in item.set.places:
            size = _size_of(model, tensors, place.tensor, place.dim)
            if size != place.size:
                raise SettingError(
                    f"the plan was made for another network: {place.tensor!r} has {size} channels in dimension {place.dim} "
                    f"here, and {place.size} in the plan; plan this model"
                )
    done: set[int] = set()
    dims: dict[str, dict[int, Tensor]] = {}
    for (name, dim), index in indices(kept).items():
        dims.setdefault(name, {})[dim] = index
    tied = _tied(tensors, dims)
    for name, picked in dims.items():
        if id(tensors[name]) not in done:
            data = _picked(tensors[name].data, picked, _groups(model, name))
            for tensor in tied[name]:
                done.add(id(tensor))
                tensor.data = data
                tensor.grad = None
    for layer in model.modules():  # two layers may hold one tensor
        if not done.isdisjoint(map(id, (*layer._parameters.values(), *layer._buffers.values()))):
            _resize_(layer)


def _tied(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, list[Tensor]]:
    """For each of some names, the tensors that are the same part of one memory.

    Raises:
        SettingError: one of them overlaps in memory with another tensor that is another part of it.
    """
    same: dict[Memory, list[Tensor]] = {}
    beside: dict[int, list[str]] = {}  # by storage
    for name, tensor in tensors.items():
        held = memory_of(tensor)
        same.setdefault(held, []).append(tensor)
        beside.setdefault(held.storage, []).append(name)
    found = {}
    for name in names:
        held = memory_of(tensors[name])
        found[name] = same[held]
        for other in beside[held.storage]:
            if memory_of(tensors[other]) != held and _overlap(tensors[name], tensors[other]):
                raise SettingError(
                    f"{name!r} and {other!r} are different views of one memory, so no channel of {name!r} can be removed or "
                    "moved; give each its own weights"
                )
    return found


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether the parts of one storage overlap, from their first to their last element."""
    ends = []
    for tensor in (a, b):
        start = tensor.storage_offset() * tensor.element_size()
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        last = sum((size - 1) * step for size, step in steps) * tensor.element_size()
        ends.append((start, start + last + tensor.element_size()))
    return bool(a.numel() and b.numel() and ends[0][0] < ends[1][1] and ends[1][0] < ends[0][1])


def indices(kept: Sequence[Selection]) -> dict[tuple[str, int], Tensor]:
    """For each dimension of a tensor that changes: the old position of what lies at each new position.

    A channel that moves takes the places of the channel whose number it gets, so the sets of a concatenation do not mix.
    """
    found: dict[tuple[str, int], Tensor] = {}
    gone: dict[tuple[str, int], list[Tensor]] = {}
    for item in kept:
        new, old = torch.tensor(sorted(item.index)), torch.tensor(item.index)
        stays = torch.zeros(item.set.size, dtype=torch.bool)
        stays[old] = True
        for place in item.set.places:
            axis = place.tensor, place.dim
            source = found.setdefault(axis, torch.arange(place.size))
            positions = torch.tensor(place.index).reshape(item.set.size, -1)
            source[positions[new].flatten()] = positions[old].flatten()
            gone.setdefault(axis, []).append(positions[~stays].flatten())
    for axis, source in found.items():
        left = torch.ones(len(source), dtype=torch.bool)
        left[torch.cat(gone[axis])] = False
        found[axis] = source[left]
    return found


def _size_of(model: nn.Module, tensors: Mapping[str, Tensor], name: str, dim: int) -> int:
    if name not in tensors:
        raise SettingError(f"the plan was made for another network: {name!r} is not in this one; plan this model")
    tensor = tensors[name]
    if dim >= tensor.dim():
        raise SettingError(
            f"the plan was made for another network: {name!r} has {tensor.dim()} dimensions; plan this model"
        )
    return tensor.shape[dim] * (_groups(model, name) if dim == 1 else 1)


def _groups(model: nn.Module, name: str) -> int:
    """The groups of a grouped convolution's weight; 1 for a depthwise one, whose filters are its input channels."""
    layer = model.get_submodule(name.rpartition(".")[0])
    grouped = isinstance(layer, nn.modules.conv._ConvNd) and name.endswith("weight") and layer.weight.shape[1] > 1
    return layer.groups if grouped else 1  # type: ignore[return-value]


def _picked(tensor: Tensor, dims: Mapping[int, Tensor], groups: int) -> Tensor:
    """The chosen indices of each dimension. In a grouped weight, each group of filters picks its own input channels."""
    for dim, index in dims.items():
        index = index.to(tensor.device)
        if dim != 1 or groups == 1:
            tensor = tensor.index_select(dim, index)
    if groups > 1 and 1 in dims:
        each, wanted = tensor.shape[1], dims[1].to(tensor.device)
        blocks = wanted.reshape(groups, -1) - each * torch.arange(groups, device=tensor.device)[:, None]
        parts = tensor.chunk(groups)
        tensor = torch.cat([part.index_select(1, block) for part, block in zip(parts, blocks, strict=True)])
    return tensor.contiguous(memory_format=_format_of(tensor))


def _format_of(tensor: Tensor) -> torch.memory_format:
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _resize_(layer: nn.Module) -> None:
    """Set the attributes of a layer that say its sizes to the sizes of its tensors."""
    weight = getattr(layer, "weight", None)
    tensor = weight if isinstance(weight, Tensor) else getattr(layer, "running_mean", None)
    if not isinstance(tensor, Tensor):
        return
    sizes: dict[str, Any] = {}
    if isinstance(layer, nn.modules.conv._ConvNd):
        before = layer.in_channels, layer.out_channels, layer.groups
        if layer.transposed:
            sizes = {"in_channels": tensor.shape[0], "out_channels": tensor.shape[1] * layer.groups}
        elif layer.groups > 1 and before[0] == before[2]:  # depthwise before: its filters are its input channels
            groups = tensor.shape[0] * before[0] // before[1]
            sizes = {"in_channels": groups, "out_channels": tensor.shape[0], "groups": groups}
        else:
            sizes = {"in_channels": tensor.shape[1] * layer.groups, "out_channels": tensor.shape[0]}
    elif isinstance(layer, nn.Linear):
        sizes = {"in_features": tensor.shape[1], "out_features": tensor.shape[0]}
    elif isinstance(layer, nn.modules.batchnorm._NormBase):
        sizes = {"num_features": tensor.shape[0]}
    elif isinstance(layer, nn.GroupNorm):
        sizes = {"num_channels": tensor.shape[0]}
    elif isinstance(layer, nn.PReLU):
        sizes = {"num_parameters": tensor.shape[0]}
    elif hasattr(layer, "normalized_shape"):  # layer norms and RMS norms, torch's and timm's
        sizes = {"normalized_shape": tuple(tensor.shape)}
    for name, value in sizes.items():
        setattr(layer, name, value)
