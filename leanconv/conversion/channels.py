"""Sets of channels that change together: found by one forward pass, and written as data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leanconv.conversion.following import Following
from leanconv.conversion.training import differs_in_training, training, twice
from leanconv.core.affine import has_hooks
from leanconv.core.errors import SettingError
from leanconv.core.meta import InputSize, dry_run
from leanconv.core.notes import image_size, input_size_of
from leanconv.core.wrappers import unscripted, unwrapped

WRITTEN = "its number of channels may be written in the code"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the channels of a set lie in one dimension of one tensor.

    Args:
        tensor: the name of the parameter or buffer, ``layer1.0.conv1.weight``.
        dim: the dimension. Dimension 1 of a grouped convolution counts all its input channels, not those of one group.
        size: the length of the dimension.
        index: the positions, those of the first channel first. After flattening, a channel has several.
    """

    tensor: str
    dim: int
    size: int
    index: tuple[int, ...]

    @property
    def layer(self) -> str:
        """The name of the layer that holds the tensor."""
        return self.tensor.rpartition(".")[0]

    def to_json(self) -> dict[str, Any]:
        """The place as JSON values; positions as ranges ``[start, stop]``."""
        return {"tensor": self.tensor, "dim": self.dim, "size": self.size, "index": ranges(self.index)}

    @classmethod
    def from_json(cls, value: Any) -> Place:
        """The place that `to_json` wrote."""
        return cls(str(value["tensor"]), natural(value["dim"]), natural(value["size"]), unranged(value["index"]))


@dataclass(frozen=True, slots=True)
class ChannelSet:
    """Channels that are free to change their order among themselves, and everywhere where they lie.

    Args:
        name: the layer that makes the channels first, or its parameter if it makes several sets.
        size: the number of channels.
        places: where they lie. Each holds every channel, the same number of times.
        cells: for each channel the number of the cell it must stay in: the groups of a grouped convolution or norm. ()
            where there is one cell.
        whole: why no channel may be removed; None where some may.
        makes, reads: the tensors of the layers that make the channels, and of those that read them.
    """

    name: str
    size: int
    places: tuple[Place, ...]
    cells: tuple[int, ...] = ()
    whole: str | None = None
    makes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    def cell_sizes(self) -> list[int]:
        """The number of channels of each cell."""
        return np.bincount(self.cells).tolist() if self.cells else [self.size]

    def to_json(self) -> dict[str, Any]:
        """The set as JSON values."""
        return {
            "name": self.name,
            "size": self.size,
            "places": [place.to_json() for place in self.places],
            "cells": list(self.cells),
        }

    @classmethod
    def from_json(cls, value: Any) -> ChannelSet:
        """The set that `to_json` wrote, without what is only for choosing: `whole`, `makes` and `reads`."""
        places = tuple(Place.from_json(place) for place in value["places"])
        found = cls(str(value["name"]), natural(value["size"]), places, tuple(natural(cell) for cell in value["cells"]))
        for place in found.places:
            if (
                found.size < 1
                or not place.index
                or len(place.index) % found.size
                or len(set(place.index)) < len(place.index)
            ):
                raise ValueError(f"{place.tensor!r} holds {len(place.index)} positions of {found.size} channels")
            if max(place.index) >= place.size:
                raise ValueError(f"{place.tensor!r} has {place.size} channels and no channel {max(place.index)}")
        if found.cells and len(found.cells) != found.size:
            raise ValueError(f"{found.name!r} has {len(found.cells)} cells for {found.size} channels")
        return found


@dataclass(frozen=True, slots=True)
class ChannelGraph:
    """The free sets of channels of a network, and the layers whose channels must stay as they are.

    Args:
        sets: the sets, in the order of the network.
        fixed: {layer: why the channels it makes must stay}.
        input_size: (channels, height, width) of the forward pass.
    """

    sets: tuple[ChannelSet, ...]
    fixed: dict[str, str]
    input_size: InputSize

    def of(self, name: str) -> ChannelSet:
        """The set of this name.

        Raises:
            SettingError: there is none.
        """
        for found in self.sets:
            if found.name == name:
                return found
        raise SettingError(f"there is no set of channels {name!r}; {', '.join(s.name for s in self.sets[:5])}, ... are")


def channel_graph(model: nn.Module, input_size: InputSize | None = None) -> ChannelGraph:
    """The sets of channels of `model` that can change their order, or be removed, together.

    The model runs on the meta device if it can, in eval mode, and also in training mode if it computes otherwise then. A
    channel belongs to one set with everything that meets it: the filters that make it, norms and biases, depthwise filters,
    other terms of a residual sum, gates, and the weights that read it, also behind a concatenation, a channel shuffle or
    flattening. What is not followed is fixed, with its reason: attention, computed weights, the classes.

    Args:
        input_size: (channels, height, width); default: the input size of the model, if the model states it.

    Raises:
        SettingError: the input size is unknown, or the model does not run on it.

    >>> two = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> graph = channel_graph(two, (3, 16, 16))
    >>> [(found.name, found.size) for found in graph.sets]
    [('0', 8)]
    >>> [(place.tensor, place.dim) for place in graph.sets[0].places if place.layer in ("0", "3")]
    [('0.weight', 0), ('0.bias', 0), ('3.weight', 1)]
    >>> graph.fixed
    {'3': 'the network gives it out'}
    """
    model = unwrapped(model)
    found, _ = follow(model, sized(model, input_size))
    return found


def sized(model: nn.Module, input_size: InputSize | None) -> InputSize:
    """`input_size`, or the one that the model states.

    Raises:
        SettingError: there is none.
    """
    size = input_size_of(model) if input_size is None else image_size(input_size)
    if size is None:
        raise SettingError("this network does not say its input size; give input_size=(channels, height, width)")
    return size


def follow(model: nn.Module, size: InputSize) -> tuple[ChannelGraph, dict[tuple[str, int], np.ndarray]]:
    """The graph, and for each followed dimension of a tensor the number of the channel at each position."""
    hooked = [name for name, module in model.named_modules() if has_hooks(module)]
    scripted = [name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]

    def run(twin: nn.Module, images: Tensor) -> Following:
        others = differs_in_training(twin, images)
        following = Following(twin)
        _followed(following, twin, images)
        if others:  # a head that runs only then reads channels too
            _followed(following, training(twin), twice(images))
        following.fix_layers(hooked, "it has forward hooks")
        following.fix_layers(scripted, "it is scripted")
        return following

    following = dry_run(unscripted(model, "change"), size, run)
    return _graph(following, [name for name, _ in model.named_modules()], size)


def _followed(following: Following, twin: nn.Module, images: Tensor) -> None:
    following.start(images)
    with following:
        out = twin(images)
    following.end(out)


def _graph(
    following: Following, order: Sequence[str], size: InputSize
) -> tuple[ChannelGraph, dict[tuple[str, int], np.ndarray]]:
    channel = channels_met(following)
    reasons: dict[int, str] = {}
    for labels, reason in following.fixed:
        for number in np.unique(channel[labels]).tolist():
            reasons.setdefault(number, reason)
    axes = {axis: channel[first : first + n] for axis, (first, n) in following.axes.items()}
    sets = _sets(following, channel, reasons, axes)
    rank = {name: position for position, name in enumerate(order)}
    sets.sort(key=lambda found: rank.get(found.name.partition("[")[0], len(rank)))
    fixed: dict[str, str] = {}
    for tensor, dim in sorted(following.producers, key=lambda axis: rank.get(axis[0].rpartition(".")[0], len(rank))):
        why = next((reasons[number] for number in axes[tensor, dim].tolist() if number in reasons), None)
        if why is not None:
            fixed[tensor.rpartition(".")[0]] = why
    return ChannelGraph(tuple(sets), fixed, size), axes


def channels_met(following: Following) -> np.ndarray:
    """For each label, the number of its channel: the least label that it is coupled with."""
    return _components(following.size, following.pairs)


def _components(size: int, pairs: Iterable[np.ndarray]) -> np.ndarray:
    """For each of `size` labels, the least label that it is coupled with, over any number of pairs."""
    found = np.arange(size)
    joined = np.concatenate([np.zeros((2, 0), dtype=np.int64), *pairs], axis=1)
    while True:
        low = np.minimum(found[joined[0]], found[joined[1]])
        before = found.copy()
        np.minimum.at(found, found[joined[0]], low)
        np.minimum.at(found, found[joined[1]], low)
        found = found[found]
        if (found == before).all():
            return found


def _sets(
    following: Following,
    channel: np.ndarray,
    reasons: dict[int, str],
    axes: dict[tuple[str, int], np.ndarray],
) -> list[ChannelSet]:
    """The free channels, those together that went through the same operations and lie in the same tensors."""
    trail = np.zeros(following.size, dtype=np.uint64)  # a sum of random numbers, one for each operation and dimension
    generator = np.random.default_rng(0)
    for labels in following.touched:
        np.add.at(trail, channel[labels[labels > 0]], generator.integers(0, 2**63, dtype=np.uint64))
    for numbers in axes.values():
        np.add.at(trail, numbers, generator.integers(0, 2**63, dtype=np.uint64))
    free = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *axes.values()]))
    free = free[~np.isin(free, list(reasons))]
    _, alike = np.unique(trail[free], return_inverse=True)
    member = np.full(following.size, -1)  # of each channel: its set
    member[free] = alike
    where: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for axis, numbers in axes.items():
        for found in np.unique(member[numbers]).tolist():
            where[found].append(axis)
    written, cut = (
        set(channel[np.concatenate([[0], *found]).astype(np.int64)].tolist())
        for found in (following.written, following.cut)
    )
    sets: list[ChannelSet] = []
    taken: set[str] = set()
    for found, places in where.items():
        makes = [axis for axis in places if axis in following.producers]
        reads = [axis for axis in places if axis in following.consumers]
        if found < 0 or not makes or not reads:
            continue
        numbers = axes[makes[0]]
        numbers = numbers[np.sort(np.unique(np.where(member[numbers] == found, numbers, -1), return_index=True)[1])]
        numbers = numbers[member[numbers] == found]  # in the order in which the first layer makes them
        cells = _cells(following.cells, channel, numbers.tolist())
        own = tuple(Place(*axis, len(axes[axis]), _positions(axes[axis], numbers, following.size)) for axis in places)
        tensor, first = makes[0][0], own[places.index(makes[0])].index[0]
        whole_set = len(numbers) == len(axes[makes[0]])
        why = WRITTEN if written.intersection(numbers.tolist()) else None
        why = "the code divides it" if cut.intersection(numbers.tolist()) else why
        if cells is not None and len(set(np.bincount(cells).tolist())) > 1:
            why = "its cells differ in size"
        made, read = tuple(axis[0] for axis in makes), tuple(axis[0] for axis in reads)
        part = "" if whole_set else f"[{first}]"
        name = tensor.rpartition(".")[0] + part
        if name == part or name in taken:  # the parameter of no layer, or one of several
            name = tensor + part
        taken.add(name)
        sets.append(ChannelSet(name, len(numbers), own, tuple(cells or ()), why, made, read))
    return sets


def _positions(axis: np.ndarray, numbers: np.ndarray, size: int) -> tuple[int, ...]:
    """Where the channels lie in a dimension, those of the first channel first, each in ascending order."""
    rank = np.full(size, -1)
    rank[numbers] = np.arange(len(numbers))
    held = np.flatnonzero(rank[axis] >= 0)
    return tuple(held[np.argsort(rank[axis[held]], kind="stable")].tolist())


def _cells(cells: Sequence[tuple[np.ndarray, int]], channel: np.ndarray, numbers: Sequence[int]) -> list[int] | None:
    """The cell of each channel, numbered by their first channels; None if no grouped layer divides them."""
    keys: list[np.ndarray] = []
    for labels, groups in cells:
        part = np.full(len(channel), -1)
        part[channel[labels]] = np.arange(len(labels)) // (len(labels) // groups)
        keys.append(part[numbers])
    order: dict[tuple[int, ...], int] = {}
    result = [order.setdefault(tuple(key), len(order)) for key in zip(*(key.tolist() for key in keys), strict=True)]
    return result if len(order) > 1 else None


def ranges(index: Sequence[int]) -> list[list[int]]:
    """The numbers as ranges ``[start, stop]``, in their order.

    >>> ranges([0, 1, 2, 7, 5, 6])
    [[0, 3], [7, 8], [5, 7]]
    """
    found: list[list[int]] = []
    for number in index:
        if found and found[-1][1] == number:
            found[-1][1] += 1
        else:
            found.append([number, number + 1])
    return found


def unranged(value: Any, most: int = 10_000_000) -> tuple[int, ...]:
    """The numbers that `ranges` wrote.

    Raises:
        ValueError: the ranges are none, or hold more than `most` numbers.

    >>> unranged([[0, 3], [7, 8]])
    (0, 1, 2, 7)
    """
    pairs = [(natural(start), natural(stop)) for start, stop in value]
    if any(start >= stop for start, stop in pairs) or sum(stop - start for start, stop in pairs) > most:
        raise ValueError("its channels are no ranges [start, stop]")
    return tuple(number for start, stop in pairs for number in range(start, stop))


def natural(value: Any) -> int:
    """`value`, if it is a whole number of at least 0.

    Raises:
        TypeError: it is none.
    """
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is no whole number of at least 0")
    return value
