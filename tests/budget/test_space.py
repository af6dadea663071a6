"""Candidates: one for each method, setting and group of layers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from torch import nn

import leanconv as lc
from leanconv.budget.costs import Costs, formula_costs
from leanconv.budget.space import candidates_of
from leanconv.core.errors import SettingError
from leanconv.ops import find_method
from tests.budget.conftest import Small

SIZE = (3, 32, 32)


def test_layers_come_in_the_order_of_execution():
    space = candidates_of(Small().eval(), (1, 8, 8), align=4)
    assert [site.name for site in space.sites] == ["first.0", "a.0", "b.0", "c.0"]
    assert [one.sites[0].name for one in space.lean] == sorted(
        (one.sites[0].name for one in space.lean), key=[site.name for site in space.sites].index
    )
    assert len({one.key for one in space.candidates}) == len(space.candidates)


def test_layers_that_share_weights_are_one_candidate():
    space = candidates_of(lc.create_model("resnet20"), SIZE, methods=["depth_shared"])
    assert all(len(one.sites) > 1 for one in space.lean)
    keys = [(one.group.method.adapter_rank, *(site.name for site in one.sites)) for one in space.lean]
    assert {key[0] for key in keys} == {0, 8}
    assert len({*keys}) == len(keys)  # sharing in a stage and in the network make the same groups here


def test_inner_widths_are_whole_vectors():
    space = candidates_of(lc.create_model("resnet20"), SIZE, methods=["tied_block", "grouped"], align=16)
    for one in space.lean:
        (spec,) = one.group.specs
        parts = getattr(one.group.method, "blocks", None) or one.group.method.groups
        assert spec.in_channels // parts % 16 == 0 and spec.out_channels // parts % 16 == 0


def test_where_exclude_and_methods_with_settings():
    model = lc.create_model("resnet8")
    space = candidates_of(model, SIZE, methods=[lc.TiedBlock(4)], where="layer3*", exclude="*shortcut*")
    assert [one.label for one in space.lean] == ["tied_block(blocks=4)"] * 2
    assert {item.site.name for item in space.kept} >= {"conv1", "layer3.0.shortcut.0"}
    with pytest.raises(SettingError, match="none of the 2 layers has a candidate"):
        candidates_of(model, SIZE, methods=["tied_block"], where="layer3.0.conv*", align=64)


def test_a_method_of_a_users_own_is_a_candidate_with_its_defaults():
    @dataclass(frozen=True)
    class Halved(lc.TiedBlock):
        blocks: int = 2

        @classmethod
        def grid(cls, specs, align):
            return super(lc.TiedBlock, cls).grid(specs, align)

    labels = {one.label for one in candidates_of(lc.create_model("resnet8"), SIZE).lean}
    assert "halved(blocks=2)" in labels


@pytest.mark.parametrize("name", lc.list_methods())
def test_each_setting_of_a_grid_saves_something(name):
    specs = [lc.ConvSpec(64, 64, 3, padding=1)] * 4
    sites = [lc.Site(f"c{index}", spec, 0, ((8, 8),)) for index, spec in enumerate(specs)]
    grid = find_method(name).grid(specs, 8)
    assert grid
    for method in grid:
        groups, _ = method.group(sites)
        assert groups
        for group in groups:
            dense = sum(site.params() for site in group.sites), sum(site.macs() for site in group.sites)
            assert group.params() < dense[0] or sum(group.macs()) < dense[1]


def test_predicted_counts_are_those_of_the_converted_network():
    model = lc.create_model("resnet8").eval()
    space = candidates_of(model, SIZE)
    costs = formula_costs(model, space)
    assert Costs.from_json(costs.to_json()) == costs
    for method in ("tied_block", "ghost", "shared_basis", "soft_shared", "lego"):
        chosen, covered = [], set()
        for one in space.lean:
            names = {site.name for site in one.sites}
            if one.group.method.name == method and not names & covered:
                chosen.append(one)
                covered |= names
        chosen += [one for one in space.dense if one.sites[0].name not in covered]
        found = lc.count(lc.convert(model, space.plan(chosen)), SIZE)
        total = costs.total(space, chosen)
        assert (total["params"], total["macs"], total["bytes"]) == (found.params, found.macs, found.bytes), method


def test_a_layer_without_a_grid_stays_dense():
    space = candidates_of(Small().eval(), (1, 8, 8), methods=["tied_block"], align=4)
    assert "first.0" not in {one.sites[0].name for one in space.lean}  # one input channel
    plan = space.plan(space.dense, {"a.0": "because"})
    assert {item.site.name: item.reason for item in plan.kept}["a.0"] == "because"
    assert isinstance(lc.Plan.from_json(plan.to_json()), lc.Plan)
    with pytest.raises(SettingError, match=r"has no nn\.Conv2d"):
        candidates_of(nn.Sequential(nn.Linear(4, 4)), (4, 1, 1))


@pytest.mark.parametrize(
    ("method", "settings"), [("low_rank", ["rank"]), ("partial_conv", ["ratio"]), ("depth_shared", ["adapter_rank"])]
)
def test_grids_of_new_operators_have_whole_vectors_and_save(method, settings):
    model = lc.create_model("resnet20")
    (name,) = settings
    for align in (4, 8):
        space = candidates_of(model, SIZE, methods=[method], align=align)
        for one in space.lean:
            value = getattr(one.group.method, name)
            inner = value * one.sites[0].spec.in_channels if name == "ratio" else value
            assert inner % align == 0
    for factors in ("pointwise", "spatial"):
        shares = [
            one.macs() / one.sites[0].macs()
            for one in candidates_of(model, SIZE, methods=["low_rank"], align=4).lean
            if one.sites[0].name == "layer3.0.conv2" and one.group.method.factors == factors
        ]
        assert [round(share, 2) for share in sorted(shares)] == pytest.approx([0.25, 0.35, 0.5, 0.65], abs=0.06)


def test_what_saves_next_to_nothing_does_not_help():
    """A stem has few parameters and many MACs: making it lean helps with MACs only."""
    stem, body = nn.Conv2d(3, 8, 2, padding=1), nn.Conv2d(8, 128, 3, stride=8)
    space = candidates_of(nn.Sequential(stem, body).eval(), SIZE, methods=[lc.LowRank(rank=2)], align=2)
    costs = formula_costs(nn.Sequential(stem, body).eval(), space)
    by_name = {one.sites[0].name: one for one in space.lean}
    assert by_name["0"].params() < stem.weight.numel() + 8
    assert [costs.helps(by_name[name], ["params"]) for name in ("0", "1")] == [False, True]
    assert [costs.helps(by_name[name], ["macs"]) for name in ("0", "1")] == [True, True]
