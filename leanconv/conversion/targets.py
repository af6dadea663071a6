"""What the lean layers of each group are fitted to: dense layers, and the moments of their inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.conversion.calibrate import has_norms, reestimate_norms_
from leanconv.conversion.moments import (
    MEMORY,
    POSITIONS,
    Moments,
    again,
    bytes_of,
    collect,
    first_calls,
    in_rounds,
    run,
    watching,
)
from leanconv.core.errors import LeanconvWarning
from leanconv.core.generators import torch_seed
from leanconv.core.linear import pointwise
from leanconv.core.method import Group
from leanconv.core.moments import by_group, solved
from leanconv.core.spec import ConvSpec


@dataclass(frozen=True)
class Target:
    """What one group is fitted to.

    Args:
        convs: the dense layers, in the order of the group's sites; in a sequential fit, layers that compute the dense outputs
            from the inputs that the lean network gives.
        stats: the moments of the inputs of each layer; None for a fit to the weights.
    """

    convs: Sequence[nn.Module]
    stats: Sequence[Moments] | None = None


def targets(
    model: nn.Module, groups: Sequence[Group], data: Iterable[Any] | None
) -> Iterator[tuple[Group, Target | None]]:
    """Each group with its target: the layers of the dense model on the inputs that they have in it.

    As many groups are measured in one pass over `data` as the memory bound of `collect` allows.
    """
    if data is None:
        yield from ((group, None) for group in groups)
        return
    data = again(data)
    for groups_now in in_rounds(groups, lambda group: _bytes(model, group), MEMORY):
        measured = [group for group in groups_now if _uses_inputs(group)]
        names = [site.name for group in measured for site in group.sites]
        found = collect(model, names, data, memory=2**62) if names else {}
        for group in groups_now:
            yield group, _target(model, group, found) if group in measured else None


def in_order(
    model: nn.Module, lean: nn.Module, groups: Sequence[Group], data: Iterable[Any], seed: int = 0
) -> Iterator[tuple[Group, Target | None]]:
    """Each group with its target, in the order in which `model` calls the groups.

    With the dense output y = W u + b of a layer and the input ũ that the layer has in `lean`, the lean weights Ŵ are to have
    the least E||y - Ŵ ũ - b̂||². This is, up to a constant, E||(W* - Ŵ) ũ + b* - b̂||² with the dense weights W* that come
    nearest to y: the group is fitted to W* on the moments of ũ. Before, the batch norms of `lean` are estimated again behind
    the groups that are lean already, because they will be in the end, and ũ depends on them.

    Args:
        lean: a copy of `model`, in which the caller replaces the layers of a group before asking for the next group.
    """
    data, norms = again(data), has_norms(lean)
    for number, group in enumerate(_by_first_call(model, groups, data)):
        if not _uses_inputs(group):
            yield group, None
            continue
        if norms and number:
            reestimate_norms_(lean, data)
        names = [site.name for site in group.sites]
        found = paired(model, lean, names, data, seed)
        target = _target(model, group, {name: made.moments() for name, made in found.items() if made.count})
        if target is not None:
            target = Target([found[name].best(_conv(model, name)) for name in names], target.stats)
        yield group, target


def _uses_inputs(group: Group) -> bool:
    reason = group.method.ignores_inputs()
    if reason is not None:
        warnings.warn(f"{group.method.label()} keeps its fit to the weights: {reason}", LeanconvWarning, stacklevel=4)
    return reason is None


def _target(model: nn.Module, group: Group, found: dict[str, Moments]) -> Target | None:
    names = [site.name for site in group.sites]
    missing = [name for name in names if name not in found]
    if missing:
        said = f"{missing[0]!r} was not called with the images of data; {group.method.label()} is fitted to the weights"
        warnings.warn(said, LeanconvWarning, stacklevel=4)
        return None
    return Target([model.get_submodule(name) for name in names], [found[name] for name in names])


def _bytes(model: nn.Module, group: Group) -> int:
    return sum(bytes_of(model.get_submodule(site.name)) for site in group.sites)


def _layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    return {name: model.get_submodule(name) for name in names}


def _conv(model: nn.Module, name: str) -> nn.Conv2d:
    layer = model.get_submodule(name)
    conv = pointwise(layer) if isinstance(layer, nn.Linear) else layer
    assert isinstance(conv, nn.Conv2d)
    return conv


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def paired(
    model: nn.Module, lean: nn.Module, names: Sequence[str], data: Iterable[Any], seed: int
) -> dict[str, Paired]:
    """The moments of the inputs of some layers in `lean` together with their outputs in `model`, at the same positions.

    Both networks draw the same random numbers, where they draw any.
    """
    found = {name: Paired() for name in names}
    wanted: dict[str, list[Tensor]] = {name: [] for name in names}

    def note(name: str, _: Tensor, outputs: Tensor) -> None:
        wanted[name].append(outputs)

    def add(name: str, unfolded: Tensor, _: Tensor) -> None:
        found[name].add(unfolded, wanted[name].pop(0))

    for batch in [data] if isinstance(data, Tensor) else data:
        for network, seen in ((model, note), (lean, add)):
            layers = _layers(network, names)
            # dropout that is active in eval mode drops the same in both networks
            with watching(layers, seen, POSITIONS, _generator(seed)), torch_seed(seed, _gpus(network)):
                run(network, [batch])
        seed += 1
    return found


def _gpus(network: nn.Module) -> list[torch.device]:
    """The GPU on which a network computes, if it is on one."""
    return [parameter.device for parameter in islice(network.parameters(), 1) if parameter.device.type == "cuda"]


def _by_first_call(model: nn.Module, groups: Sequence[Group], data: Iterable[Any]) -> list[Group]:
    """The groups in the order of the first call of any of their layers; groups that are not called come last."""
    names = [site.name for group in groups for site in group.sites]
    order = {name: index for index, name in enumerate(first_calls(model, names, data))}
    return sorted(groups, key=lambda group: min(order.get(site.name, len(names)) for site in group.sites))


class Paired:
    """The moments of the inputs ũ that a layer has in the lean network, and E[y ũᵀ] with the dense outputs y."""

    def __init__(self) -> None:
        self.count = 0
        self.second = self.first = self.cross = self.output = torch.zeros(())

    def add(self, unfolded: Tensor, outputs: Tensor) -> None:
        parts = unfolded.mT @ unfolded, unfolded.sum(1), outputs.mT @ unfolded, outputs.sum(1)
        sums = (self.second, self.first, self.cross, self.output)
        self.second, self.first, self.cross, self.output = (
            total.to(part.device) + part.double() for total, part in zip(sums, parts, strict=True)
        )
        self.count += unfolded.shape[1]

    def moments(self) -> Moments:
        return Moments(self.second / self.count, self.first / self.count, self.count)

    def best(self, conv: nn.Conv2d) -> nn.Conv2d:
        """`conv` with the weights that come nearest to the dense outputs: W* = (E[y ũᵀ] + ridge W) (E[ũ ũᵀ] + ridge)⁻¹.

        With a bias, both expectations are covariances, and the bias gives y its mean.
        """
        moments, biased = self.moments(), conv.bias is not None
        cross, output = self.cross / self.count, self.output / self.count
        if biased:
            cross = cross - output[:, :, None] * moments.mean[:, None]
        right = cross + moments.ridge[:, None, None] * by_group(conv.weight, conv.groups)
        weight = solved(right, moments.metric(biased)).flatten(0, 1).view_as(conv.weight)
        made = nn.Conv2d(**ConvSpec.of(conv).kwargs(), device="meta")
        made.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
        if biased:
            shift = output.flatten() - moments.mean_of(weight)
            made.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
        return made
