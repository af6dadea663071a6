"""A search starts from networks with fewer channels too, and their plans, costs and files fit the candidates."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import leanconv as lc
from leanconv.budget.flow import best_points
from leanconv.budget.limits import Budget
from leanconv.budget.narrowed import shares
from leanconv.core.errors import SettingError
from tests.budget.conftest import QUICK, Small, Stop, quick_timing, striped


def options(**more: Any) -> dict[str, Any]:
    return {**QUICK, "narrowed": 1, "align": 2, **more}


def test_the_shares_end_at_the_strictest_limit():
    budget = Budget.of("macs=0.5,params=0.25")
    assert shares(budget, {"macs": 1.0, "params": 1.0}, 2) == pytest.approx([0.5, 0.25])
    assert shares(Budget.of("max_drop=1.0"), {}, 1) == [0.25]
    assert shares(Budget.of("bytes=1kB"), {"bytes": 1e9}, 1) == [0.02]


def test_the_best_points_have_no_point_that_costs_less_and_diverges_less():
    points = [
        {"measure": "macs", "macs": a, "divergence": b} for a, b in ((9, 0), (5, 2), (6, 1), (5, 3), (4, 2.5), (7, 1))
    ]
    found = [(point["macs"], point["divergence"]) for point in best_points(points)]
    assert found == [(9, 0), (6, 1), (5, 2), (4, 2.5)]


@pytest.fixture(scope="module")
def only_narrower(trained, tmp_path_factory):
    """A budget that lean operators alone cannot meet, on the network with fewer channels."""
    folder = tmp_path_factory.mktemp("narrowed") / "search"
    data = striped(120), striped(60)
    with pytest.MonkeyPatch.context() as patch:
        quick_timing(patch)
        patch.setattr("leanconv.budget.flow.shares", lambda *_: [0.5])
        return lc.lean(trained, data, "macs=0.25", folder, **options(methods=("low_rank",))), folder


def test_a_budget_that_operators_alone_cannot_meet_is_met_with_fewer_channels(only_narrower, trained, data):
    found, folder = only_narrower
    rows = {row["network"]: row for row in found.rows}
    assert rows["lean"]["macs"] <= 0.25 * rows["dense"]["macs"]
    assert rows["lean"]["predicted"]["macs"] == rows["lean"]["macs"]
    assert rows["lean"]["predicted"]["params"] == rows["lean"]["params"]
    assert lc.channel_plans(found.network) and found.plan.groups
    loaded = lc.load(folder, Small())
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(loaded(x), found.network(x), atol=1e-5)  # the layout differs
    changed = [row for row in found.layers if "," in row["becomes"]]
    assert changed and all(row["conv"] not in row["becomes"] for row in changed)
    assert {point["from"] for point in found.frontier} == {"dense", *names(folder)}
    with pytest.raises(SettingError, match="nearest that can be met is macs="):
        lc.lean(trained, data, "macs=0.25", **options(methods=("low_rank",), narrowed=0))


def names(folder):
    return [path.name for path in folder.glob("narrowed-*")]


def test_a_budget_that_nothing_meets_names_the_nearest_as_a_part_of_the_dense_network(trained, data):
    with pytest.raises(SettingError, match=r"nearest that can be met is macs=0\.\d+") as caught:
        lc.lean(trained, data, "macs=0.01", **options(methods=("tied_block",)))
    part = float(str(caught.value).split("macs=")[-2].split()[0])
    assert part < 0.25
    met = lc.lean(trained, data, f"macs={part}", **options(methods=("tied_block",)))
    assert met.rows[1]["macs"] <= part * met.rows[0]["macs"]


@pytest.mark.parametrize("stage", ["measure", "score", "solve"])
def test_an_interrupted_search_continues(stage, only_narrower, trained, data, tmp_path, monkeypatch):
    monkeypatch.setattr("leanconv.budget.flow.shares", lambda *_: [0.5])
    whole, _ = only_narrower
    given = options(methods=("low_rank",))
    with pytest.raises(KeyboardInterrupt):
        lc.lean(trained, data, "macs=0.25", tmp_path, **{**given, "progress": Stop(stage, 2)})
    again = lc.lean(trained, data, "macs=0.25", tmp_path, resume=True, **given)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor), name
    assert json.dumps(again.frontier) == json.dumps(whole.frontier)


def test_the_better_of_both_starts_is_taken(trained, data, tmp_path):
    found = lc.lean(trained, data, "macs=0.6", tmp_path, **options())
    real = {path.parent.name: json.loads(path.read_text())["divergence"] for path in tmp_path.rglob("choice.json")}
    assert len(real) == 2
    best = min(real, key=lambda name: real[name])
    assert bool(lc.channel_plans(found.network)) == best.startswith("narrowed")
    starts = {one["from"]: one["converted"] for one in found.summary["starts"]}
    assert sorted(starts.values()) == sorted(real.values()) and {*starts} == {"dense", *names(tmp_path)}
    assert f"dense {starts['dense']:.3g}" in " ".join(found.sentences())


def test_a_drop_budget_searches_both_frontiers(trained, data, tmp_path):
    found = lc.lean(trained, data, "max_drop=40", tmp_path, **options(minimise="params", points=3))
    rows = {row["network"]: row for row in found.rows}
    assert rows["dense"]["quality"] - rows["lean"]["quality"] <= 40
    assert rows["lean"]["params"] < rows["dense"]["params"]
    values = [point["params"] for point in found.frontier]
    assert values == sorted(values, reverse=True) and {point["from"] for point in found.frontier} > {"dense"}


def test_a_network_with_fewer_channels_needs_no_operator(trained, data, tmp_path):
    """With whole vectors of 4 channels, no block of 4 channels can be tied; the narrower network itself meets the budget."""
    found = lc.lean(trained, data, "macs=0.4", tmp_path, **options(methods=("tied_block",), align=4))
    assert {row["becomes"].split(", ")[-1] for row in found.layers} == {"dense"}
    assert found.rows[1]["macs"] <= 0.4 * found.rows[0]["macs"]
    assert not found.plan.groups and lc.channel_plans(lc.load(tmp_path, Small()))
