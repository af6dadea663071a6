"""Controls that are ordinary networks: pruned ones, and a narrower one that is trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from leanconv.budget.costs import Costs
from leanconv.budget.memory import alive
from leanconv.budget.prediction import measured_ms
from leanconv.budget.setup import Setup
from leanconv.core.count import count
from leanconv.core.errors import SettingError
from leanconv.core.modes import in_eval
from leanconv.search.controls import narrower
from leanconv.search.importance import Criterion
from leanconv.search.pruning import prune

CRITERIA: dict[str, Criterion] = {"pruned": "magnitude", "pruned_random": "random"}
NARROWER = "narrower"
ORDINARY = (*CRITERIA, NARROWER)
STEPS = 7  # halvings of the range of shares


def of_share(setup: Setup, name: str, share: float) -> nn.Module:
    """The network of a control with at most the part `share` of the dense network's MACs, always the same one.

    Layers keep whole vectors of channels if time is limited, which rewards them, and any number otherwise.

    Raises:
        SettingError: the share is too small, or the network cannot be made narrower.
    """
    align = setup.config.align if setup.timed else 1
    torch.manual_seed(setup.config.seed)
    if name == NARROWER:
        return narrower(setup.teacher, share, align=align, input_size=setup.input_size)
    return prune(setup.teacher, share, CRITERIA[name], align=align, input_size=setup.input_size, seed=setup.config.seed)


def largest_share(setup: Setup, name: str, costs: Costs, most: Mapping[str, float]) -> float:
    """The largest share of the MACs, to 1/128, at which the network of a control meets the limits.

    Time is measured, interleaved with the dense network's.

    Args:
        setup, name: as in `of_share`.
        costs: of the search.
        most: the largest value of each measure.

    Raises:
        SettingError: no share meets the limits.
    """
    met: dict[tuple[int, ...], bool] = {}  # by the sizes of all parameters: near shares have the same whole vectors
    high = min(1.0, most.get("macs", costs.network["macs"]) / costs.network["macs"])
    if _meets(setup, of_share(setup, name, high), costs, most):
        return high
    low = best = 0.0
    reason = ""
    for _ in range(STEPS):
        middle = (low + high) / 2
        try:
            network = of_share(setup, name, middle)
        except SettingError as error:  # so few channels cannot stay
            low, reason = middle, f" ({error})"
            continue
        sizes = tuple(size for parameter in network.parameters() for size in parameter.shape)
        if sizes not in met:
            met[sizes] = _meets(setup, network, costs, most)
        if met[sizes]:
            low = best = middle
        else:
            high = middle
    if not best:
        raise SettingError(f"no share of the channels meets the budget{reason}")
    return best


def _meets(setup: Setup, network: nn.Module, costs: Costs, most: Mapping[str, float]) -> bool:
    """Whether a network is within the limits; its time is measured only if it is within all others."""
    whole = count(network, setup.input_size)
    values = {"params": float(whole.params), "macs": float(whole.macs or 0), "bytes": float(whole.bytes)}
    if "memory" in most:
        held = alive(in_eval(network), setup.example, [])
        if held is None:
            raise SettingError("the memory of the network is unknown, because it cannot be traced")
        values["memory"] = values["bytes"] + held.peak
    if any(value > most[measure] for measure, value in values.items() if measure in most):
        return False
    return "time" not in most or measured_ms(setup, costs, in_eval(network)) <= most["time"]
