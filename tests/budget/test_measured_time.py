"""A limit on time holds for the measured time, though the times of layers do not add up to it."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

import leanconv as lc
from leanconv.budget import flow
from leanconv.budget.solver import Problem
from tests.budget.test_solver import problem


def predicted_of(found: Problem, network: nn.Module) -> float:
    plan = lc.plan_of(network)
    groups = () if plan is None else plan.groups
    lean = [one for one in found.space.lean if any(one.group == group for group in groups)]
    covered = {site.name for one in lean for site in one.sites}
    dense = [one for one in found.space.dense if one.sites[0].name not in covered]
    return found.costs.total(found.space, (*lean, *dense))["time"]


def corrected(found: Problem, factor: float, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The limits and the tries if a network takes `factor` of its predicted time."""
    teacher = nn.Sequential(OrderedDict((f"c{index}", nn.Conv2d(8, 8, 3)) for index in range(4)))
    measured = []

    def ms(setup: Any, costs: Any, network: nn.Module) -> float:
        measured.append(factor * predicted_of(found, network))
        return measured[-1]

    monkeypatch.setattr(flow, "measured_ms", ms)
    setup = SimpleNamespace(teacher=teacher, space=found.space)
    budget = (found.least("time") * max(1, factor) + found.costs.network["time"]) / 2
    limits = {"time": budget, "params": found.costs.network["params"]}
    search = flow.Flow(setup, folder, lambda stage: None, progress=False)
    limit = search.corrected(found, limits)["time"]
    chosen = found.solve({**limits, "time": limit})
    again = search.corrected(found, limits)["time"]
    return {"budget": limits["time"], "limit": limit, "chosen": chosen, "measured": measured, "again": again}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_the_measured_time_is_within_the_budget(seed: int, factor: float, tmp_path: Path, monkeypatch):
    result = corrected(problem(seed), factor, tmp_path, monkeypatch)
    assert factor * result["chosen"].predicted["time"] <= result["budget"] * (1 + 1e-9)
    assert len(result["measured"]) <= flow.TRIES and result["again"] == result["limit"], "a resumed search reads it"


def test_a_network_that_is_faster_than_predicted_may_be_less_lean(tmp_path: Path, monkeypatch):
    found = problem(0)
    result = corrected(found, 0.8, tmp_path, monkeypatch)
    assert result["limit"] > result["budget"]
    assert result["chosen"].score < found.solve({"time": result["budget"]}).score
