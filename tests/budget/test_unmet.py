"""Budgets that no network meets, and those that the dense network meets."""

from __future__ import annotations

from pathlib import Path

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


def test_a_search_whose_budget_cannot_be_met_leaves_its_folder_to_the_corrected_command(trained, data, tmp_path: Path):
    with pytest.raises(SettingError, match="no choice of candidates meets"):
        lc.lean(trained, data, "macs=1e-6", tmp_path, **QUICK)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SettingError, match="holds something else"):
        lc.lean(trained, data, "macs=0.6", tmp_path, **QUICK)
    (tmp_path / "notes.txt").unlink()
    found = lc.lean(trained, data, "macs=0.6", tmp_path, **QUICK)
    assert found.rows[1]["macs"] <= 0.6 * found.rows[0]["macs"] and not (tmp_path / "unmet.json").exists()
