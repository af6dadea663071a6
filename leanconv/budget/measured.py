"""A limit on time holds for the measured time of a network, and not for the sum of its layers' times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leanconv.budget.solver import Problem
from leanconv.budget.space import Candidate

TRIES = 4  # networks that are measured
NEAR = 0.04  # the part of the budget that the measured time may stay below it


def time_limit(
    problem: Problem, most: Mapping[str, float], measured: Callable[[Sequence[Candidate]], float]
) -> dict[str, Any]:
    """The limit on the predicted time at which the best choice meets the budget by its measured time.

    The times of layers do not add up to the time of a network: work between layers is missing, and a runtime fuses layers. So
    the network of a choice is measured, and the limit is scaled, or halved between limits that are known to be too low and too
    high, until the measured time is at most the budget and within `NEAR` of it, at most `TRIES` times.

    Args:
        problem: the search.
        most: the largest value of each measure; "time" is the budget.
        measured: the time of the network of a choice.

    Returns:
        "limit", and "tried": each limit with its measured time. If none meets the budget, the limit is the one that came nearest.

    Raises:
        SettingError: no choice meets the budget as predicted.
    """
    budget = limit = most["time"]
    least = problem.least("time", {name: value for name, value in most.items() if name != "time"})
    dense = problem.costs.network["time"]
    low, high = 0.0, max(dense, budget)  # predicted times that meet the budget, and that do not
    tried: list[dict[str, float]] = []
    for _ in range(TRIES):
        solution = problem.solve({**most, "time": limit})
        ms = measured(solution.chosen) if any(one.changes for one in solution.chosen) else dense
        tried.append({"limit": limit, "measured": ms})
        if (1 - NEAR) * budget <= ms <= budget or (ms <= budget and solution.score == 0):
            break
        if ms <= budget:
            low = max(low, limit)
        else:
            high = min(high, solution.predicted["time"])
        scaled = limit * budget / ms * (1 - NEAR / 2)
        limit = max(least, scaled if low < scaled < high else (low + high) / 2)
        if high <= least:  # the leanest choice is too slow
            break
    met = [one for one in tried if one["measured"] <= budget]
    best = max(met, key=lambda one: one["limit"]) if met else min(tried, key=lambda one: one["measured"])
    return {"limit": best["limit"], "tried": tried}
