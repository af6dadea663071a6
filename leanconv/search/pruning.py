"""Structured pruning: remove the channels that matter least, until the network meets a budget of MACs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from leanconv.conversion.apply import plan_of
from leanconv.conversion.channel_plan import ChannelPlan, Selection, apply_channels_
from leanconv.conversion.channels import ChannelGraph, ChannelSet, follow, sized
from leanconv.conversion.moments import again
from leanconv.conversion.narrowing import removable
from leanconv.conversion.training import twice
from leanconv.core.copying import copied
from leanconv.core.count import count_macs
from leanconv.core.errors import SettingError, first_line
from leanconv.core.meta import InputSize, dry_run, on_meta, refuse_inference
from leanconv.core.modes import in_training
from leanconv.core.settings import check_choice, check_int
from leanconv.core.wrappers import unwrapped
from leanconv.search.importance import NEEDS_DATA, Batches, Criterion, channel_scores
from leanconv.search.readers import MEASURED, measurable
from leanconv.search.reconstruction import repaired
from leanconv.search.work import Work as Work

_RUNS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "": lambda twin, images: twin(images),
    "in training mode, ": lambda twin, images: in_training(twin)(twice(images)),
}
ROUNDED = 1.001  # the MACs of each layer are rounded
STEPS = 30  # halvings of the share of channels that stay
Allocation = Literal["uniform", "scores"]


def prune(
    model: nn.Module,
    macs: float | None = None,
    criterion: Criterion = "magnitude",
    *,
    align: int = 8,
    ratios: Mapping[str, float] | None = None,
    allocate: Allocation = "uniform",
    data: Batches | None = None,
    input_size: InputSize | None = None,
    seed: int = 0,
) -> nn.Module:
    """A copy of `model` with fewer channels; `model` itself is not changed.

    The copy is an ordinary network with narrower layers: it counts, trains, converts to lean operators, exports and saves
    like any other. Its channel plan is in its record, so `leanconv.save` and `leanconv.load` keep it.

    Args:
        macs: the share of the MACs of `model` that may remain, 0.5 for half.
        criterion: which channels go first, see `leanconv.search.importance.channel_scores`. With ``"reconstruction"`` the
            layers that read removed channels are fitted to their old outputs, one after the other, see
            `leanconv.search.reconstruction.repaired`.
        align: a set keeps a multiple of this number of channels: 8 or 16 fill the vectors of a processor. A set that has
            fewer stays whole.
        ratios: ``{glob: share}``: the share of channels that stays in the sets whose names match.
        allocate: how many channels the sets keep that `ratios` does not name. ``"uniform"``: the same share in every set.
            ``"scores"``: step by step, the channels go whose scores are smallest for the MACs that they save; this is for the
            criteria whose scores compare between sets: "taylor", "activation" and "reconstruction".
        data: batches for the criteria that need them.
        input_size: (channels, height, width); default: the input size of the model, if the model states it.
        seed: for ``criterion="random"``.

    Raises:
        SettingError: the budget cannot be met, a glob matches no set, an argument is out of range, or the network does not
            run with fewer channels, in eval mode or in training mode.

    >>> import leanconv as lc
    >>> dense = lc.create_model("resnet20")
    >>> half = prune(dense, macs=0.5, align=4)
    >>> round(lc.count(half).macs / lc.count(dense).macs, 2)
    0.48
    """
    refuse_inference("prune")
    data = None if data is None else again(data)
    plan = plan_channels(
        model,
        macs,
        criterion,
        align=align,
        ratios=ratios,
        allocate=allocate,
        data=data,
        input_size=input_size,
        seed=seed,
    )
    _check_runs(unwrapped(model), plan, input_size)
    if macs is not None:
        size = sized(unwrapped(model), input_size)
        left = count_macs(apply_channels_(on_meta(unwrapped(model)), plan), size) / count_macs(model, size)
        if left > macs * ROUNDED:
            raise SettingError(
                f"the narrower network has {left:.3f} of the MACs, and macs={macs}: products of this network are not seen as "
                "those of layers; give ratios={glob: share} in place of macs="
            )
    if criterion == "reconstruction":
        assert data is not None
        return repaired(unwrapped(model), plan, data, sequential=True)
    return apply_channels_(copied(unwrapped(model)), plan)


def _check_runs(model: nn.Module, plan: ChannelPlan, input_size: InputSize | None) -> None:
    """Raise SettingError if the network does not run with the channels that remain, in eval mode or in training mode.

    Its code may say their number, and layers that run only in training mode are not narrowed with the others.
    """
    pruned, size = apply_channels_(on_meta(model), plan), sized(model, input_size)
    for mode, run in _RUNS.items():
        try:
            dry_run(pruned, size, run)
        except SettingError as error:
            if mode and not _runs(model, size, run):
                continue
            names = ", ".join(repr(item.set.name) for item in plan.selections[:3])
            why = "layers that run only then need all channels" if mode else "its code says a number of channels"
            raise SettingError(
                f"{mode}the network does not run with fewer channels ({first_line(error.__cause__ or error)}); {why}: keep these "
                f"whole by ratios={{glob: 1.0}}, or change the code; fewer remain in {names}, ..."
            ) from error


def _runs(model: nn.Module, size: InputSize, run: Callable[[nn.Module, Tensor], object]) -> bool:
    try:
        dry_run(model, size, run)
    except SettingError:
        return False
    return True


def prune_counted(
    model: nn.Module, macs: float, allocate: Allocation | None, *, input_size: InputSize, **settings: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """The network of `prune`, and what was done: criterion, allocation, align, and the MACs before and after.

    Args:
        allocate: None takes "scores" if the scores compare between sets, and "uniform" otherwise.
        model, macs, input_size, settings: as for `prune`.
    """
    allocate = allocate or ("scores" if settings["criterion"] in NEEDS_DATA else "uniform")
    pruned = prune(model, macs, allocate=allocate, input_size=input_size, **settings)
    done = {"criterion": settings["criterion"], "allocate": allocate, "align": settings["align"]}
    counts = {"macs_before": count_macs(model, input_size), "macs_after": count_macs(pruned, input_size)}
    return pruned, done | counts


def plan_channels(
    model: nn.Module,
    macs: float | None = None,
    criterion: Criterion = "magnitude",
    *,
    align: int = 8,
    ratios: Mapping[str, float] | None = None,
    allocate: Allocation = "uniform",
    data: Batches | None = None,
    input_size: InputSize | None = None,
    seed: int = 0,
) -> ChannelPlan:
    """The channel plan of `prune`, which `leanconv.apply_channels_` applies; the arguments are those of `prune`."""
    model = unwrapped(model)
    check_int("align", align)
    if plan_of(model) is not None:
        raise SettingError(
            "the model is lean already, and its operators have no channels to remove; prune the dense network, then convert"
        )
    if ratios is not None and not isinstance(ratios, Mapping):
        raise SettingError(f"ratios={ratios!r} must be a dict {{glob: share of the channels that stays}}")
    for name, share in {"macs": macs, **(ratios or {})}.items():
        if share is not None and (isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1):
            raise SettingError(f"{name}={share!r} must be a share of more than 0 and at most 1, such as 0.5")
    if macs is None and not ratios:
        raise SettingError("give macs=, the share of the MACs that may remain, or ratios={glob: share of the channels}")
    graph = removable_graph(model, input_size)
    if criterion in MEASURED:
        graph = measurable(model, graph)
    sets = [found for found in graph.sets if found.whole is None]
    named = _named(graph, sets, ratios or {})
    free = [found for found in sets if found.name not in named]
    widths = {name: width_of(graph.of(name), share, align) for name, share in named.items()}
    check_choice("allocate", allocate, get_args(Allocation))
    if macs is not None and allocate == "scores":
        if criterion not in NEEDS_DATA:
            raise SettingError(
                f"allocate='scores' needs scores that compare between sets, which criterion={criterion!r} does not give; use "
                f"{', '.join(NEEDS_DATA)}"
            )
        scores = channel_scores(model, sets, criterion, data, seed=seed)
        work = Work(model, graph)
        widths |= widths_by_scores(work.macs, free, scores, widths, macs, align)
        _check_met(work.macs(widths) / work.dense, macs, align)
    elif macs is not None:
        widths |= _within(Work(model, graph), free, widths, macs, align)
    cut = [found for found in sets if widths.get(found.name, found.size) < found.size]
    if macs is None or allocate != "scores":
        scores = channel_scores(model, cut, criterion, data, seed=seed)
    return plan_of_widths(cut, widths, scores)


def plan_of_widths(sets: Sequence[ChannelSet], widths: Mapping[str, int], scores: Mapping[str, Tensor]) -> ChannelPlan:
    """The plan that keeps, of each set that gets narrower, the channels with the highest scores."""
    cut = [found for found in sets if widths.get(found.name, found.size) < found.size]
    return ChannelPlan(tuple(Selection(found, best(found, widths[found.name], scores[found.name])) for found in cut))


def removable_graph(model: nn.Module, input_size: InputSize | None = None) -> ChannelGraph:
    """The channel graph of `model`, in which `whole` says of each set whether channels can be removed.

    Raises:
        SettingError: the input size is unknown, or the model does not run on it.
    """
    model = unwrapped(model)
    graph, axes = follow(model, sized(model, input_size))
    return removable(model, graph, axes)


def width_of(found: ChannelSet, share: float, align: int) -> int:
    """The number of channels of a set nearest to `share` of them: a multiple of `align`, and of the number of its cells.

    >>> width_of(ChannelSet("conv", 64, ()), 0.45, 8)
    32
    """
    step = math.lcm(align, len(found.cell_sizes()))
    if step >= found.size or share == 1:
        return found.size
    return min(found.size, max(step, round(share * found.size / step) * step))


def best(found: ChannelSet, width: int, scores: Tensor) -> tuple[int, ...]:
    """The `width` channels with the highest scores, equally many of each cell, in ascending order."""
    cells = torch.tensor(found.cells or (0,) * found.size)
    each = width // len(found.cell_sizes())
    kept: list[int] = []
    for cell in cells.unique().tolist():
        members = torch.nonzero(cells == cell).flatten()
        order = scores[members].argsort(descending=True, stable=True)[:each]
        kept += members[order].tolist()
    return tuple(sorted(kept))


def _named(graph: ChannelGraph, sets: Sequence[ChannelSet], ratios: Mapping[str, float]) -> dict[str, float]:
    """{set: share} for the sets that a glob of `ratios` names; the first glob that matches decides."""
    if ratios and not graph.sets:
        said = "; ".join(f"{layer!r}: {reason}" for layer, reason in [*graph.fixed.items()][:3])
        raise SettingError(f"ratios: no channel of this network can be removed ({said or 'it has no channels'})")
    for glob in ratios:
        matching = [found for found in graph.sets if fnmatchcase(found.name, glob)]
        if not matching:
            names = ", ".join(found.name for found in graph.sets[:5])
            raise SettingError(f"ratios: {glob!r} matches no set of channels; {names}, ... are sets")
        if all(found.whole for found in matching):
            raise SettingError(f"ratios: no channel of {matching[0].name!r} can be removed: {matching[0].whole}")
    named = {}
    for found in sets:
        share = next((ratios[glob] for glob in ratios if fnmatchcase(found.name, glob)), None)
        if share is not None:
            named[found.name] = share
    return named


def check_some(macs: int) -> None:
    """Raise SettingError if a network has no MACs, of which a share could be removed."""
    if not macs:
        raise SettingError(
            "the network has no MACs, so none can be removed; give a network with convolutions or linear layers"
        )


def _check_met(least: float, macs: float, align: int) -> None:
    if least > macs:
        raise SettingError(
            f"macs={macs} cannot be met by removing channels; the least is {math.ceil(1000 * least) / 1000} with align={align}"
        )


def _within(
    work: Work, free: Sequence[ChannelSet], given: Mapping[str, int], macs: float, align: int
) -> dict[str, int]:
    """The widths of the free sets, all by one share, with which the network has at most `macs` of its MACs."""

    def widths(share: float) -> dict[str, int]:
        return {found.name: width_of(found, share, align) for found in free}

    check_some(work.dense)
    least = work.macs({**given, **widths(0)}) / work.dense
    _check_met(least, macs, align)
    low, high = 0.0, 1.0
    if work.macs({**given, **widths(high)}) <= macs * work.dense:
        return widths(high)
    for _ in range(STEPS):
        middle = (low + high) / 2
        if work.macs({**given, **widths(middle)}) <= macs * work.dense:
            low = middle
        else:
            high = middle
    return widths(low)


def widths_by_scores(
    size: Callable[[Mapping[str, int]], int], free: Sequence[ChannelSet], scores: Mapping[str, Tensor],
    given: Mapping[str, int], share: float, align: int,
) -> dict[str, int]:  # fmt: skip
    """The widths with which a network has at most `share` of its size, with a small sum of the removed channels' scores.

    In each step one set loses `align` channels (and equally many of each cell): the set with the least added score for what this
    saves.

    Args:
        size: the size of the network with some widths: `Work.macs` or `Work.weights`.
        free: the sets that may get narrower.
        scores: of all channels of these sets; the channels with the least go first.
        given: the widths of other sets.
        share: the part of the size that may remain.
        align: a set keeps a multiple of this number of channels.

    Returns:
        the widths by set; those of the smallest network if the share cannot be met.
    """
    widths = {found.name: found.size for found in free}
    steps = {found.name: math.lcm(align, len(found.cell_sizes())) for found in free}
    ordered = {found.name: scores[found.name].sort().values for found in free}
    dense, left = size({}), size(given)
    while left > share * dense:
        options = []
        for name, width in widths.items():
            less = (width - 1) // steps[name] * steps[name]
            if less > 0:
                count = len(ordered[name])
                added = float(ordered[name][count - width : count - less].sum())
                after = size({**given, **widths, name: less})
                options.append((added / max(left - after, 1), name, less, after))
        if not options:
            break
        _, name, widths[name], left = min(options)
    return widths
