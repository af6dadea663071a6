"""Budgets that no network meets, and those that the dense network meets."""

from __future__ import annotations

import pytest

import leanconv as lc
from leanconv.core.errors import SettingError
from tests.budget.conftest import QUICK


@pytest.mark.parametrize("narrowed", [0, 2])
@pytest.mark.parametrize("budget", ["macs=1e-6", "params=1e-9,macs=0.9", "bytes=1B"])
def test_a_budget_below_the_least_of_all_candidates_ends_before_any_fit(budget, narrowed, trained, data):
    stages = []
    asked = QUICK | {"narrowed": narrowed, "progress": lambda event: stages.append(event.stage)}
    with pytest.raises(SettingError, match=r"no choice of candidates meets .*; the nearest that can be met is"):
        lc.lean(trained, data, budget, **asked)
    assert {*stages} == {"measure"}


def test_a_limit_that_the_dense_network_meets_is_noted(trained, data):
    found = lc.lean(trained, data, "params=100000000k,macs=0.8", **QUICK)
    assert found.summary["notes"] == ["the dense network meets params=100G: it has 2.507k."]
