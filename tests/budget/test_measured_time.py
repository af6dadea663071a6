"""A limit on time holds for the measured time, though the times of layers do not add up to it."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from leanconv.budget import times
from leanconv.budget.costs import formula_costs
from leanconv.budget.measured import TRIES, time_limit
from leanconv.budget.solver import Problem
from leanconv.budget.space import candidates_of
from leanconv.core.errors import SettingError
from tests.budget.test_solver import problem


def limited(found: Problem, budget: float, factor: float) -> dict[str, Any]:
    """What is found if a network takes `factor` of its predicted time."""

    def measured(chosen: Any) -> float:
        return factor * found.costs.total(found.space, chosen)["time"]

    result = time_limit(found, {"time": budget}, measured)
    return result | {"chosen": found.solve({"time": result["limit"]}), "budget": budget}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("factor", [0.8, 1.0, 1.1])
def test_the_measured_time_is_within_the_budget(seed: int, factor: float):
    found = problem(seed, layers=5)
    budget = (found.least("time") * max(1, factor) + 0.97 * found.costs.network["time"]) / 2
    result = limited(found, budget, factor)
    assert factor * result["chosen"].predicted["time"] <= budget * (1 + 1e-9)
    assert len(result["tried"]) <= TRIES
    if factor <= 1:
        assert result["chosen"].score <= found.solve({"time": budget}).score


def test_a_network_that_is_faster_than_predicted_is_less_lean():
    better = []
    for seed in range(6):
        found = problem(seed, layers=5)
        budget = (found.least("time") + 0.9 * found.costs.network["time"]) / 2
        better.append(limited(found, budget, 0.8)["chosen"].score < found.solve({"time": budget}).score)
    assert sum(better) >= 3


def test_a_budget_that_the_leanest_network_misses_gives_the_nearest():
    found = problem(0)
    least = found.least("time")
    result = limited(found, least * 1.02, 1.5)
    assert min(one["measured"] for one in result["tried"]) > result["budget"]
    assert result["chosen"].predicted["time"] == pytest.approx(least, rel=0.05)
    with pytest.raises(SettingError, match="the nearest that can be met is time="):
        limited(found, least * 0.5, 1.0)


def test_each_shape_gets_a_part_of_a_short_time(monkeypatch: pytest.MonkeyPatch):
    """A measurement of eight layers takes 10 s, and 29 s are given to three shapes that have more layers each."""
    model = nn.Sequential(*(nn.Conv2d(width, 2 * width, 3) for width in (16, 32, 64)))
    space = candidates_of(model, (16, 16, 16))
    clock = [0.0]

    def measure(builds: Any, *_: Any) -> dict[str, float]:
        clock[0] += 10.0
        return dict.fromkeys(builds, 1.0)

    monkeypatch.setattr(times, "measure", measure)
    monkeypatch.setattr(times, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(times, "baseline", lambda *_: (3.0, dict.fromkeys("012", 1.0)))
    costs = times.measured_costs(
        formula_costs(model, space), space, model, runtime="eager", batch=1, threads=1, seconds=29.0, cache=None
    )
    own = Counter(one.sites[0].name for one in space.lean)
    timed = Counter(one.sites[0].name for one in space.lean if costs.by_key[one.key].time is not None)
    assert min(own.values()) > times.TOGETHER and dict(timed) == dict.fromkeys("012", times.TOGETHER)
