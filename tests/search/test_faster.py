"""Layer times, and the plan without what would be slower."""

from __future__ import annotations

import pytest
import torch

import leanconv as lc
from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.search import LayerTime, faster_only, layer_times


def plan_of(method: lc.Method) -> lc.Plan:
    with torch.device("meta"):
        model = lc.create_model("resnet8")
    return lc.plan(model, method, exclude="conv1")


def test_every_layer_is_measured(tmp_path):
    plan = plan_of(lc.TiedBlock())
    seen = []
    times = layer_times(
        plan, cache=tmp_path / "forms.json", threads=1, progress=lambda done, all: seen.append((done, all))
    )
    assert [time.name for time in times] == [site.name for group in plan.groups for site in group.sites]
    assert all(time.dense_ms > 0 and time.lean_ms > 0 and time.form for time in times)
    assert seen == [(index, len(times)) for index in range(len(times))]
    assert layer_times(plan, cache=tmp_path / "forms.json", threads=1) == times  # remembered


def test_slow_groups_go_together():
    plan = plan_of(lc.DepthShared())
    number = next(index for index, group in enumerate(plan.groups) if len(group.sites) > 1)
    times = [
        LayerTime(site.name, index, 1.0, 0.9 if position else (1.3 if index == number else 0.9), "dense")
        for index, group in enumerate(plan.groups)
        for position, site in enumerate(group.sites)
    ]
    left = faster_only(plan, times)
    gone = {site.name for site in plan.groups[number].sites}
    assert len(left.groups) == len(plan.groups) - 1
    reasons = {kept.site.name: kept.reason for kept in left.kept}
    assert gone <= {*reasons} and all("slower lean on this device" in reasons[name] for name in gone)
    assert [time.slower for time in times].count(True) == 1
    with pytest.warns(LeanconvWarning, match="converts nothing"):  # the only group is gone
        lean = lc.convert(lc.create_model("resnet8"), left)
    assert lean(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def test_times_of_another_plan_are_refused():
    with pytest.raises(SettingError, match="measured for another plan"):
        faster_only(plan_of(lc.TiedBlock()), [])


def test_a_plan_without_sizes_is_refused():
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3))
    with pytest.raises(SettingError, match="does not hold the size of 0's map"):
        layer_times(lc.plan(model, lc.TiedBlock()), cache=None)


@pytest.mark.parametrize("method", [lc.TiedBlock(2), lc.Grouped(2)])
def test_linear_layers_are_measured_too(method):
    mlp = torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.Linear(16, 16), torch.nn.Linear(16, 4))
    plan = lc.plan(mlp, method, include="linear", input_size=(3, 4, 4))
    (time,) = layer_times(plan, cache=None, threads=1)
    assert time.name == "1" and time.dense_ms > 0 and time.lean_ms > 0
