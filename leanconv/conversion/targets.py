"""What the lean layers of each group are fitted to: dense layers, and the moments of their inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.conversion.moments import MEMORY, POSITIONS, Moments, again, bytes_of, collect, in_rounds, run, watching
from leanconv.core.errors import LeanconvWarning
from leanconv.core.linear import pointwise
from leanconv.core.method import Group
from leanconv.core.modes import evaluating
from leanconv.core.moments import by_group, solved


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
    nearest to y: the group is fitted to W* on the moments of ũ.

    Args:
        lean: a copy of `model`, in which the caller replaces the layers of a group before asking for the next group.
    """
    data = again(data)
    for group in _by_first_call(model, groups, data):
        if not _uses_inputs(group):
            yield group, None
            continue
        names = [site.name for site in group.sites]
        sums = {name: _Paired() for name in names}
        for batch in data if not isinstance(data, Tensor) else [data]:
            for name, pairs in _outputs(model, names, batch, seed).items():
                sums[name].expected += [outputs for _, outputs in pairs]
            with watching(_layers(lean, names), lambda name: sums[name].add, POSITIONS, _generator(seed)):
                run(lean, [batch])
            seed += 1
        if any(not made.count for made in sums.values()):
            yield group, _target(model, group, {})
            continue
        convs = [made.best(_conv(model, name)) for name, made in sums.items()]
        yield group, Target(convs, [made.moments() for made in sums.values()])


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


def _outputs(model: nn.Module, names: Sequence[str], batch: Any, seed: int) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """The unfolded inputs and the outputs of some layers of `model` on one batch, in parts."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    with watching(
        _layers(model, names), lambda name: lambda _, out: found[name].append((out[:0], out)), POSITIONS, _generator(seed)
    ):
        run(model, [batch])
    return found


def _by_first_call(model: nn.Module, groups: Sequence[Group], data: Iterable[Any]) -> list[Group]:
    """The groups in the order of the first call of any of their layers; groups that are not called come last."""
    order: dict[str, int] = {}

    def note(name: str) -> Any:
        return lambda *_: order.update({name: order.get(name, len(order))})  # a hook that returns None changes nothing

    names = [site.name for group in groups for site in group.sites]
    handles = [model.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]
    try:
        with evaluating(model):
            run(model, data if isinstance(data, Tensor) else [next(iter(data))])
    finally:
        for handle in handles:
            handle.remove()
    return sorted(groups, key=lambda group: min(order.get(site.name, len(names)) for site in group.sites))


class _Paired:
    """The moments of the inputs ũ that a layer has in the lean network, and E[y ũᵀ] with the dense outputs y."""

    def __init__(self) -> None:
        self.expected: list[Tensor] = []  # outputs of the dense layer for the parts that come next
        self.count = 0
        self.second = self.first = self.cross = self.output = torch.zeros(())

    def add(self, unfolded: Tensor, _: Tensor) -> None:
        outputs = self.expected.pop(0)
        parts = unfolded.mT @ unfolded, unfolded.sum(1), outputs.mT @ unfolded, outputs.sum(1)
        sums = (self.second, self.first, self.cross, self.output)
        self.second, self.first, self.cross, self.output = (
            total.to(part.device) + part.double() for total, part in zip(sums, parts, strict=True)
        )
        self.count += unfolded.shape[1]

    def moments(self) -> Moments:
        return Moments(self.second / self.count, self.first / self.count, self.count)

    def best(self, conv: nn.Conv2d) -> nn.Conv2d:
        """`conv` with the weights W* = (E[y ũᵀ] + ridge W) (S + ridge)⁻¹ that come nearest to the dense outputs; so for covariances
        and a bias where `conv` has a bias."""
        moments, biased = self.moments(), conv.bias is not None
        cross, output = self.cross / self.count, self.output / self.count
        if biased:
            cross = cross - output[:, :, None] * moments.mean[:, None]
        right = cross + moments.ridge[:, None, None] * by_group(conv.weight, conv.groups)
        weight = solved(right, moments.metric(biased)).flatten(0, 1).view_as(conv.weight)
        made = nn.Conv2d(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups,  # type: ignore[arg-type]
            biased, conv.padding_mode, device="meta",  # type: ignore[arg-type]
        )  # fmt: skip
        made.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
        if biased:
            shift = output.flatten() - moments.mean_of(weight)
            made.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
        return made
