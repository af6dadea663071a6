"""A choice that misses the budget of time as measured comes after those that meet it, and the result says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import leanconv as lc
from leanconv.budget.costs import Costs
from leanconv.budget.flow import Flow
from leanconv.budget.result import LeanResult
from leanconv.budget.stages import DENSE, Stages
from tests.budget.conftest import QUICK

MS = 1e-6  # for a MAC


def predicted(costs: Costs, *_: Any, **__: Any) -> Costs:
    """Times that follow MACs, in place of measured ones."""
    by_key = {key: replace(cost, time=cost.macs * MS) for key, cost in costs.by_key.items()}
    return replace(costs, network=costs.network | {"time": costs.network["macs"] * MS}, by_key=by_key)


@pytest.fixture
def searched(trained, data, monkeypatch):
    """A search with given measured times, as parts of the dense network's, for lean choices from each start."""

    def found(budget: str, dense: float, narrowed: float, **more: Any) -> LeanResult:
        def measured(setup: Any, costs: Costs, network: Any) -> float:
            return costs.dense["time"] * (dense if setup.start is setup.teacher else narrowed)

        monkeypatch.setattr("leanconv.budget.stages.measured_costs", predicted)
        monkeypatch.setattr("leanconv.budget.stages.measured_ms", measured)
        monkeypatch.setattr(Stages, "real", lambda stages, _: 0.1 if stages.name == DENSE else 0.2)
        return lc.lean(trained, data, budget, **QUICK | {"narrowed": 1, **more})

    return found


def lean_from(found: LeanResult) -> str:
    """Whether the lean network has fewer channels."""
    return "narrowed" if found.network.get_parameter("fc.weight").shape[1] < 16 else DENSE


@pytest.mark.parametrize(
    ("dense", "narrowed", "best", "said"),
    [
        (0.66, 0.59, "narrowed", "dense 0.1 (too slow), narrowed-0.60 0.2; the least in time was taken"),
        (0.59, 0.66, DENSE, "dense 0.1, narrowed-0.60 0.2 (too slow); the least in time was taken"),
        (0.59, 0.59, DENSE, "dense 0.1, narrowed-0.60 0.2; the least was taken"),
        (0.70, 0.65, "narrowed", "the nearest to the budget was taken"),
    ],
    ids=["dense", "narrowed", "none", "both"],
)
def test_a_start_that_misses_the_budget_comes_last(dense, narrowed, best, said, searched):
    found = searched("time=0.6", dense, narrowed)
    assert lean_from(found) == best and any(said in line for line in found.sentences())
    missed = [note for note in found.summary["notes"] if "no choice takes" in note]
    assert len(missed) == (dense > 0.6) + (narrowed > 0.6)


def test_a_start_that_misses_the_budget_is_not_on_the_path_of_a_loss(searched):
    found = searched("time=0.6,max_drop=100", 0.66, 0.59, minimise="params")
    assert lean_from(found) == "narrowed"


@pytest.mark.parametrize("ratio", [0.59, 0.61])
def test_a_last_measurement_above_the_budget_is_noted(ratio, searched, monkeypatch):
    verify = Flow.verify

    def verified(*args: Any) -> list[dict[str, Any]]:
        return [row | ({"ratio": ratio} if row["network"] == "lean" else {}) for row in verify(*args)]

    monkeypatch.setattr(Flow, "verify", verified)
    notes = searched("time=0.6", 0.59, 0.59).summary["notes"]
    assert any("the lean network takes 0.61 of dense's time, and the budget is 0.6;" in note for note in notes) == (
        ratio > 0.6
    )
