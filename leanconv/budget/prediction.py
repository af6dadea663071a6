"""How well the added-up scores and times predict real networks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from leanconv.budget.controls import real_divergence
from leanconv.budget.costs import Costs
from leanconv.budget.parts import converted
from leanconv.budget.setup import Setup
from leanconv.budget.solver import Problem
from leanconv.budget.space import Space
from leanconv.budget.times import network_ms
from leanconv.core.errors import LeanconvWarning, SettingError

SECONDS = 4.0  # for the time of one network
TIMED = 5  # networks of which the time is measured


def sampled(
    setup: Setup, costs: Costs, space: Space, scores: Mapping[str, float], count: int,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> dict[str, Any]:  # fmt: skip
    """Compare predictions with real networks on `count` random choices.

    Each choice meets a random limit on MACs or parameters, with random scores. It is converted, its statistics are estimated
    again, and its divergence from the dense network is measured. If the layers were timed, the times of some networks are
    measured too.

    Args:
        setup, costs, space, scores: of the search.
        count: the number of choices, at least 3.
        progress: called with (done, all, text) after each choice.

    Returns:
        spearman: the rank correlation of summed scores and real divergences.
        pairs: (summed scores, real divergence) of each choice.
        times: (predicted ms, measured ms) of each timed network; [] if the layers were not timed.
        time_error_pct: the median absolute error of the predicted times in percent of the measured ones; None without times.
    """
    if count < 3:
        raise SettingError(f"check={count} must be at least 3 choices, or 0 for none")
    draw = torch.Generator().manual_seed(setup.config.seed + 1)
    pairs: list[list[float]] = []
    times: list[list[float]] = []
    for number in range(count):
        measure = ("macs", "params")[number % 2]
        values = torch.rand(len(space.lean) + 1, generator=draw).tolist()
        known = {
            one.key: value
            for one, value in zip(space.lean, values, strict=False)
            if not _untimed(one.key, costs, setup)
        }
        problem = Problem(space, costs, known)
        dense = costs.network[measure]
        least = problem.least(measure)
        chosen = problem.solve({measure: least + values[-1] * (dense - least)}).chosen
        total = sum(scores[one.key] for one in chosen if one.group is not None)
        pairs.append([total, real_divergence(setup, chosen)])
        if setup.timed and len(times) < TIMED:
            lean = converted(setup.start, space.plan(chosen), setup.batches)
            times.append([costs.total(space, chosen)["time"], measured_ms(setup, costs, lean)])
        progress(number + 1, count, f"summed scores {total:.3g}, real divergence {pairs[-1][1]:.3g}")
    errors = [abs(predicted / measured - 1) * 100 for predicted, measured in times]
    return {
        "spearman": spearman(np.array(pairs)),
        "pairs": pairs,
        "times": times,
        "time_error_pct": float(np.median(errors)) if errors else None,
    }


def measured_ms(setup: Setup, costs: Costs, network: nn.Module) -> float:
    """The time of a network by its ratio to the dense network's, measured interleaved: so the machine's load cancels out.

    There is no warning if the machine is busy; the times of the final networks, which are shown, have one.
    """
    config = setup.config
    both = {"dense": setup.teacher, "other": network}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeanconvWarning)
        found = network_ms(both, setup.example, config.runtime, config.threads, SECONDS)
    latency = found["other"].latency
    assert latency is not None
    return costs.dense["time"] * latency.ratio


def _untimed(key: str, costs: Costs, setup: Setup) -> bool:
    return setup.timed and costs.by_key[key].time is None


def spearman(pairs: np.ndarray) -> float:
    """The rank correlation of two columns; ties get their mean rank.

    >>> spearman(np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 15.0]]))
    0.5
    """
    from scipy.stats import rankdata

    first, second = (rankdata(column) - (len(pairs) + 1) / 2 for column in pairs.T)
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale else 0.0
