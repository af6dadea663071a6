"""Budgets: one grammar for text and mappings."""

from __future__ import annotations

import pytest

from leanconv.budget.limits import Budget, Limit, shown
from leanconv.core.errors import SettingError

DENSE = {"time": 20.0, "macs": 4e6, "params": 1e6, "bytes": 4e6, "memory": 6e6}


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("time=0.5", {"time": 10.0}),
        ("time=12ms", {"time": 12.0}),
        ("time=0.5s", {"time": 500.0}),
        ("time=900us", {"time": 0.9}),
        ("macs=1.5M, params=0.25", {"macs": 1.5e6, "params": 250_000.0}),
        ("params=250000", {"params": 250_000.0}),
        ("params=1", {"params": 1e6}),
        ("bytes=3MB,memory=2MiB", {"bytes": 3e6, "memory": 2.0**21}),
        ("bytes=800k", {"bytes": 800_000.0}),
    ],
)
def test_limits_are_parts_or_values(text, most):
    assert Budget.of(text).most(DENSE) == pytest.approx(most)


def test_a_mapping_says_the_same_as_a_text():
    assert Budget.of({"time": "12ms", "params": 0.25}) == Budget.of("time=12ms,params=0.25")
    assert Budget.of({"max_drop": 1}) == Budget.of("max-drop=1.0") == Budget((), 1.0)
    assert Budget.of("macs=0.5,max_drop=0.5") == Budget((Limit("macs", 0.5, True),), 0.5)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", r"there is no budget; give --budget \(budget=\) time=0.5"),
        (7, "must be a text or a mapping"),
        ("time", "'time' is not measure=value"),
        ("tme=0.5", r"unknown measure 'tme' \(did you mean 'time'\?\); there are time, macs"),
        ("time=0.5,time=0.4", "time is given twice"),
        ("time=0", "a part of the dense network above 0 and at most 1, or a value such as 12ms"),
        ("time=-0.5", "above 0"),
        ("time=12", "a value such as 12ms; its units are ms, us, s"),
        ("macs=2", r"macs=2 is neither a part \(at most 1\) nor has it a unit; write macs=0.5 or macs=60M"),
        ({"params": 1.5}, "params=1.5 is neither a part"),
        ("macs=60MB", "a value such as 60M; its units are k, M, G"),
        ("params=lots", "params='lots' must be a part"),
        ({"macs": True}, "macs=True must be a part"),
        ("max_drop=-1", "a number of at least 0"),
        ("max_drop=much", "a number of at least 0"),
        ({"max_drop": True}, "a number of at least 0"),
        ("macs=1e999", "must be a part"),
    ],
)
def test_a_wrong_budget_says_the_rule(value, said):
    with pytest.raises(SettingError, match=said):
        Budget.of(value)


@pytest.mark.parametrize("measure", DENSE)
def test_a_shown_value_is_read_again(measure):
    (limit,) = Budget.of({measure: shown(measure, 1234567.0)}).limits
    assert limit.value == pytest.approx(1234567.0, rel=5e-3) and not limit.relative
