from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.search.order import order_loss

SIZE = (3, 8, 8)


def pair(channels=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, channels, 1), nn.ReLU(), nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
    ).eval()


@dataclass
class Stats:
    second: Tensor


@pytest.mark.parametrize("method", [lc.Grouped(2), lc.TiedBlock(2)])
def test_the_loss_is_the_error_of_the_fit(method):
    model = pair()
    plan = lc.plan(model, method, where="2", input_size=SIZE)
    lean = lc.convert(model, plan, "fit")
    weight = model[2].weight.detach()
    error = (lean[2].weight_dense().detach() - weight).square().sum() / weight.square().sum()
    assert order_loss(model, plan) == {"2": pytest.approx(float(error), abs=1e-6)}


def test_the_loss_weighs_inputs_by_their_second_moments():
    model = pair()
    plan = lc.plan(model, lc.Grouped(2), where="2", input_size=SIZE)
    x = torch.randn(1000, 36, dtype=torch.float64) * torch.rand(36, dtype=torch.float64)
    second = (x.T @ x / 1000)[None]
    weight = model[2].weight.detach().double().flatten(1)
    lost = weight.clone()
    lost[:2, :18] = lost[2:, 18:] = 0
    energy = second[0].diagonal()
    wanted = (lost.square() * energy).sum() / (weight.square() * energy).sum()
    assert order_loss(model, plan, {"2": Stats(second)})["2"] == pytest.approx(float(wanted))


@pytest.mark.parametrize("method", [lc.Grouped(2), lc.TiedBlock(2), lc.Split(0.5, 2)])
def test_the_chosen_order_is_near_the_best_of_all(method):
    """Four channels in and four out have 576 orders."""
    model = pair()
    plan = lc.plan(model, method, where="2", input_size=SIZE)
    every = [
        order_loss(lc.permute_channels_(copy.deepcopy(model), {"0": a, "2": b}, SIZE), plan)["2"]
        for a in itertools.permutations(range(4))
        for b in ([(0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2), (1, 0, 2, 3), (2, 0, 1, 3), (3, 0, 1, 2)])
    ]
    orders = lc.choose_orders(model, plan, starts=40, input_size=SIZE)
    found = order_loss(lc.permute_channels_(copy.deepcopy(model), orders, SIZE), plan)["2"]
    assert found <= min(every) + 1e-9 and found < order_loss(model, plan)["2"] - 0.01


def test_hidden_groups_are_found():
    """A block-diagonal weight in a random order: the loss goes to zero."""
    model = pair(8)
    model[2] = nn.Conv2d(8, 4, 3, padding=1)
    lean = lc.convert(model, lc.plan(model, lc.Grouped(2), where="2", input_size=SIZE))
    model = lc.to_dense(lean)
    x = torch.randn(1, *SIZE)
    lc.permute_channels_(model, {"0": (3, 0, 6, 1, 5, 7, 2, 4), "2": (2, 0, 3, 1)}, SIZE)
    before = model(x)
    plan = lc.plan(model, lc.Grouped(2), where="2", input_size=SIZE)
    assert order_loss(model, plan)["2"] > 0.2
    lc.permute_channels_(model, lc.choose_orders(model, plan, input_size=SIZE), SIZE)
    assert order_loss(model, plan)["2"] < 1e-9
    assert torch.allclose(lc.convert(model, plan, "fit")(x), before, atol=1e-5)


def test_shared_sets_lower_the_sum_and_orders_are_permutations():
    model = lc.create_model("resnet20", width=8).eval()
    x = torch.randn(2, 3, 32, 32)
    plan = lc.plan(model, lc.TiedBlock(2), exclude="conv1")
    orders = lc.choose_orders(model, plan, starts=0)
    before, y = sum(order_loss(model, plan).values()), model(x)
    lc.permute_channels_(model, orders)
    assert sum(order_loss(model, plan).values()) < before - 0.1
    assert torch.allclose(model(x), y, atol=1e-4)
    with pytest.raises(SettingError, match=r"must hold each of 0\.\.7 once"):
        lc.permute_channels_(model, {"conv1": (0, 1)})
    with pytest.raises(SettingError, match="no set of channels 'convx'"):
        lc.permute_channels_(model, {"convx": (0, 1)})
