"""A residual block may be removed: a candidate like the others, from the plan to the saved network."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.budget.costs import formula_costs
from leanconv.budget.parts import converted, without
from leanconv.budget.scores import divergence, fit_all, score_all
from leanconv.budget.space import candidates_of
from leanconv.conversion.channel_plan import ChannelPlan, apply_channels_
from leanconv.train import recover
from tests.budget.conftest import QUICK

SIZE = (1, 8, 8)


class Residual(nn.Module):
    """x -> relu(x + branch(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Deep(nn.Module):
    """Three residual blocks, of which the second adds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(*(Residual(8) for _ in range(3)))
        self.fc = nn.Linear(8, 3)
        nn.init.zeros_(self.blocks[1].bn2.weight)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.fixture
def deep() -> nn.Module:
    torch.manual_seed(0)
    model = Deep()
    lc.reestimate_norms_(model, [torch.randn(64, *SIZE)])
    return model.eval()


def removals(model: nn.Module, **more: object) -> list[str | None]:
    space = candidates_of(model, SIZE, methods=["tied_block"], align=4, blocks=True, **more)  # type: ignore[arg-type]
    return [one.block for one in space.lean if one.block is not None]


def test_blocks_are_removed_only_where_every_layer_may_become_lean(deep):
    every = ["blocks.0", "blocks.1", "blocks.2"]
    assert removals(deep) == every
    assert removals(deep, exclude="blocks.0.conv2") == every[1:]
    assert removals(deep, where=["stem*", "blocks.2*"]) == every[2:]
    deep.blocks[0].conv1.weight = deep.blocks[2].conv1.weight
    assert removals(deep) == ["blocks.1"]
    space = candidates_of(deep, SIZE, methods=["tied_block"], align=4)
    assert not any(one.block for one in space.lean)


def test_predicted_counts_are_those_of_the_network_without_the_block(deep):
    space = candidates_of(deep, SIZE, methods=[lc.LowRank(rank=2)], blocks=True)
    costs = formula_costs(deep, space)
    by_label = {(one.label, one.sites[0].name): one for one in space.candidates}
    chosen = [
        by_label["removed", "blocks.0.conv1"], by_label["low_rank(rank=2)", "blocks.2.conv2"],
        *(by_label["dense", name] for name in ("stem.0", "blocks.1.conv1", "blocks.1.conv2", "blocks.2.conv1")),
    ]  # fmt: skip
    plan = space.plan(chosen)
    assert space.removed(chosen) == ("blocks.0",) and len(plan.sites()) == 5
    lean = converted(deep, plan, None, space.removed(chosen))
    assert isinstance(lean.blocks[0], nn.Identity)
    found = lc.count(lean, SIZE)
    total = costs.total(space, chosen)
    assert (total["params"], total["macs"], total["bytes"]) == (found.params, found.macs, found.bytes)


@pytest.mark.parametrize("fit", [True, False])
def test_the_score_is_the_divergence_with_norms_estimated_again(fit, deep, tmp_path, monkeypatch):
    monkeypatch.setattr("leanconv.budget.scores.REPAIR", 1e12 if fit else 0.0)
    images = torch.randn(48, *SIZE, generator=torch.Generator().manual_seed(1))
    space = candidates_of(deep, SIZE, methods=["tied_block"], align=4, blocks=True)
    costs = formula_costs(deep, space)
    space = space.only(fit_all(deep, space, costs, ["macs"], images, tmp_path))
    before = {name: tensor.clone() for name, tensor in deep.state_dict().items()}
    scores = score_all(deep, space, images, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in deep.state_dict().items())
    for one in space.lean:
        if one.block is not None:
            thin = without(deep, [one.block], images.split(64) if fit else ())
            dense = lc.reestimate_norms_(copy.deepcopy(deep), [images])
            with torch.no_grad():
                expected = divergence(lc.reestimate_norms_(thin, [images])(images), dense(images))
            assert scores[one.key] == pytest.approx(expected, rel=1e-2, abs=1e-4)


def test_layers_behind_a_removed_block_take_over_what_it_computed(deep):
    images = torch.randn(256, *SIZE, generator=torch.Generator().manual_seed(1))
    plain, fitted = (without(deep, ["blocks.0"], batches) for batches in ((), images.split(64)))
    new = torch.randn(64, *SIZE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        errors = [divergence(model(new), deep(new)) for model in (plain, fitted)]
    assert errors[1] < 0.5 * errors[0]
    assert torch.equal(fitted.stem[0].weight, deep.stem[0].weight)  # in front of the block
    assert not torch.equal(fitted.fc.weight, deep.fc.weight)
    few = without(deep, ["blocks.0"], [images[:16]])
    assert all(torch.equal(a, b) for a, b in zip(few.parameters(), plain.parameters(), strict=True))


def test_a_block_that_adds_nothing_is_removed_and_the_network_saves_loads_and_learns(deep, data, tmp_path):
    asked = {**QUICK, "recovery_epochs": 1, "methods": ("tied_block",)}
    found = lc.lean(deep, data, "macs=0.6", tmp_path, recover=partial(recover, block_steps=2), **asked)
    rows = {row["network"]: row for row in found.rows}
    assert rows["lean"]["macs"] <= 0.6 * rows["dense"]["macs"]
    for measure in ("macs", "params"):
        assert rows["lean"]["predicted"][measure] == rows["lean"][measure]
    assert isinstance(found.network.blocks[1], nn.Identity) and not isinstance(found.network.blocks[0], nn.Identity)
    became = {row["layer"]: row for row in found.layers}
    gone = became["blocks.1.conv1"]
    assert gone["becomes"] == "removed" and gone["params"] == gone["macs"] == 0 and gone["divergence"] < 0.01
    assert became["blocks.1.conv2"]["with"] == "blocks.1.conv1"
    assert "blocks.1.conv1" not in {site.name for site in found.plan.sites()}
    loaded, x = lc.load(tmp_path, Deep()), torch.randn(2, *SIZE)
    assert torch.allclose(loaded(x), found.network(x), atol=1e-5)
    assert lc.channel_plans(loaded)[0].removed == ("blocks.1",)


def test_blocks_stay_if_this_is_asked_for(deep, data):
    asked = {**QUICK, "methods": ("low_rank",), "align": 2, "remove_blocks": False}
    found = lc.lean(deep, data, "macs=0.6", None, **asked)
    assert not any(isinstance(block, nn.Identity) for block in found.network.blocks)


def test_a_file_holds_the_channels_of_the_given_network_and_the_blocks_that_are_removed(deep, tmp_path):
    thin = lc.prune(deep, 0.8, align=2, input_size=SIZE).eval()
    found = apply_channels_(copy.deepcopy(thin), ChannelPlan(removed=("blocks.0",)))
    lc.save(found, tmp_path)
    x = torch.randn(2, *SIZE)
    for given in (thin, Deep()):  # the narrower network, and the one that was made narrower
        again = lc.load(tmp_path, copy.deepcopy(given))
        assert torch.equal(again(x), found(x))
        assert [bool(plan.removed) for plan in lc.channel_plans(again)] == [False, True]
