"""How well the added-up scores and times predict real networks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from leanconv.budget.controls import real_divergence
from leanconv.budget.costs import Costs
from leanconv.budget.scores import Lines
from leanconv.budget.setup import Setup
from leanconv.budget.solver import Problem
from leanconv.budget.space import Candidate, Space
from leanconv.budget.times import network_ms
from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.core.modes import in_eval

SECONDS = 2.5  # for the time of one network
TIMED = 5  # networks of which the time is measured


def sampled(
    setup: Setup, costs: Costs, space: Space, scores: Mapping[str, float], count: int, folder: Path,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> dict[str, Any]:  # fmt: skip
    """Compare predictions with real networks on `count` random choices.

    Each choice meets a random limit on MACs or parameters, with random scores. It is converted, its statistics are estimated
    again, and its divergence from the dense network is measured. If the layers were timed, the times of the first five
    networks are measured too.

    Args:
        setup, costs, space, scores: of the search.
        count: the number of choices, at least 3.
        folder: where each choice is stored when it is measured; choices that it holds already are used.
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
    lines = Lines(folder / "prediction.jsonl")
    for number in range(count):
        values = torch.rand(len(space.lean) + 1, generator=draw).tolist()
        if str(number) not in lines.records:
            chosen = _choice(setup, costs, space, values, ("macs", "params")[number % 2])
            total = sum(scores[one.key] for one in chosen if one.changes)
            time = [costs.total(space, chosen)["time"]] if setup.timed and number < TIMED else []
            if time:
                time.append(measured_ms(setup, costs, in_eval(setup.network(chosen, fit=False))))
            lines.add(str(number), pair=[total, real_divergence(setup, chosen)], time=time)
        total, real = lines.records[str(number)]["pair"]
        progress(number + 1, count, f"summed scores {total:.3g}, real divergence {real:.3g}")
    found = [lines.records[str(number)] for number in range(count)]
    pairs, times = [one["pair"] for one in found], [one["time"] for one in found if one["time"]]
    errors = [abs(predicted / measured - 1) * 100 for predicted, measured in times]
    return {
        "spearman": spearman(np.array(pairs)),
        "pairs": pairs,
        "times": times,
        "time_error_pct": float(np.median(errors)) if errors else None,
    }


def _choice(setup: Setup, costs: Costs, space: Space, values: Sequence[float], measure: str) -> tuple[Candidate, ...]:
    """A random choice.

    Args:
        setup, costs, space: of the search.
        values: random numbers: a score for each candidate, and the place of the limit between the leanest choice and dense.
        measure: what is limited.
    """
    known = {
        one.key: value for one, value in zip(space.lean, values, strict=False) if not _untimed(one.key, costs, setup)
    }
    problem = Problem(space, costs, known)
    least = problem.least(measure)
    return problem.solve({measure: least + values[-1] * (costs.network[measure] - least)}).chosen


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
