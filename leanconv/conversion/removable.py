"""Which channels may be removed: a network whose sets got narrower is followed again, and must couple what it coupled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from leanconv.conversion.channel_plan import ChannelPlan, Kept, apply_channels_, indices
from leanconv.conversion.channels import WRITTEN, ChannelGraph, ChannelSet, follow
from leanconv.core.errors import LeanconvError
from leanconv.core.meta import on_meta

TRIES = 16  # forward passes; what is not decided then stays whole
Axes = dict[tuple[str, int], np.ndarray]


def removable(model: nn.Module, graph: ChannelGraph, axes: Axes) -> ChannelGraph:
    """The graph, with `whole` cleared for the sets from which channels can be removed.

    Code that says a number of channels, as in ``x.view(n, 64, -1)`` or ``x[:, :32]``, may still run on a narrower network
    and read other channels. So some channels of each set behind such an operation are removed, a different number of each, and
    the network is followed again. A set stays whole if the network does not run or couples other channels.
    """
    tries = iter(range(TRIES))
    asked = [found for found in graph.sets if found.whole == WRITTEN and found.size > len(found.cell_sizes())]
    twin = on_meta(model)
    passed = {found.name for found in _passing(twin, graph, axes, asked, tries)}
    sets = tuple(replace(found, whole=None) if found.name in passed else found for found in graph.sets)
    return replace(graph, sets=sets)


def _passing(
    model: nn.Module, graph: ChannelGraph, axes: Axes, asked: Sequence[ChannelSet], tries: Iterator[int]
) -> list[ChannelSet]:
    """The sets among `asked` from which channels can be removed; halves are tried until a half passes as a whole."""
    if not asked or next(tries, None) is None:
        return []
    if _passes(model, graph, axes, asked):
        return list(asked)
    if len(asked) == 1:
        return []
    middle = len(asked) // 2
    halves = asked[:middle], asked[middle:]
    return [found for half in halves for found in _passing(model, graph, axes, half, tries)]


def _passes(model: nn.Module, graph: ChannelGraph, axes: Axes, asked: Sequence[ChannelSet]) -> bool:
    kept = [Kept(found, _some(found, position)) for position, found in enumerate(asked)]
    try:
        _, after = follow(apply_channels_(on_meta(model), ChannelPlan(tuple(kept))), graph.input_size)
    except LeanconvError:
        return False
    picked = {axis: index.numpy() for axis, index in indices(kept).items()}
    if after.keys() != axes.keys():
        return False
    before = {axis: numbers[picked[axis]] if axis in picked else numbers for axis, numbers in axes.items()}
    if any(len(before[axis]) != len(after[axis]) for axis in axes):
        return False
    pairs = np.stack([np.concatenate(list(before.values())), np.concatenate([after[axis] for axis in before])])
    both = np.unique(pairs, axis=1).shape[1]
    return both == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))  # one channel there for each channel here


def _some(found: ChannelSet, position: int) -> tuple[int, ...]:
    """The channels without some of each cell; how many differs from set to set."""
    cells = found.cells or (0,) * found.size
    each = found.size // len(found.cell_sizes())
    gone = 1 + position * 5 % max(1, each // 2)
    generator = np.random.default_rng(position)
    out: set[int] = set()
    for cell in sorted(set(cells)):
        members = [channel for channel in range(found.size) if cells[channel] == cell]
        out.update(generator.choice(members, min(gone, len(members) - 1), replace=False).tolist())
    return tuple(channel for channel in range(found.size) if channel not in out)
