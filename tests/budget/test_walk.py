"""The walk gives the output of the network with other modules, and the bytes of maps and operators are counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.budget.memory import alive, inner_bytes
from leanconv.budget.space import candidates_of
from leanconv.budget.walk import Walk, replaced
from tests.budget.conftest import Small, Untraceable


@pytest.mark.parametrize("kind", [Small, Untraceable])
def test_the_output_from_a_layer_on_is_that_of_the_whole_network(kind):
    model = kind().eval()
    images = torch.randn(3, 1, 8, 8)
    walk = Walk(model, images)
    assert walk.traced == (kind is Small)
    for name in ("first.0", "a.0", "b.0", "c.0"):
        walk.go(name)
        layer = model.get_submodule(name)
        other = nn.Conv2d(**lc.ConvSpec.of(layer).kwargs()).eval()
        with torch.no_grad():
            assert torch.equal(walk.dense, layer(walk.given))
            before = model(images)
            with replaced(model, {name: other}):
                expected = model(images)
            for _ in range(2):  # a step in place does not change the values that the walk keeps
                assert torch.equal(walk.output({name: other}), expected)
                assert torch.equal(walk.output(), before)
        assert model.get_submodule(name) is layer


@pytest.mark.parametrize("name", ["resnet8", "timm/densenet121", "timm/efficientnet_lite0", "timm/regnety_002"])
def test_networks_of_every_kind_are_walked(name):
    model = lc.create_model(name).eval()
    images = torch.randn(1, 3, 32, 32)
    walk = Walk(model, images)
    sites = candidates_of(model, (3, 32, 32), methods=["filter_summary"]).sites
    expected = model(images)
    for site in sites[:: max(1, len(sites) // 4)]:
        walk.go(site.name)
        assert walk.traced and torch.equal(walk.output(), expected)


def test_a_layer_inside_a_module_that_is_one_step_is_reached():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    ).eval()
    walk = Walk(model, torch.randn(2, 1, 2, 2))
    walk.go("2.2")
    assert walk.given.shape == (2, 8) and walk.dense.shape == (2, 2)


def test_alive_bytes_hold_a_residual():
    found = alive(Small().eval(), torch.zeros(2, 1, 8, 8), ["first.0", "b.0", "c.0"])
    assert found is not None
    one = 2 * 8 * 8 * 8 * 4  # a map of 8 channels
    assert found.at == {"first.0": 2 * 1 * 64 * 4 + one, "b.0": 3 * one, "c.0": one + one // 2}
    assert found.peak == 3 * one
    assert alive(Untraceable().eval(), torch.zeros(2, 1, 8, 8), ["b.0"]) is None


def test_inner_bytes_are_the_maps_between_two_layers():
    pair = nn.Sequential(nn.Conv2d(8, 4, 1, bias=False), nn.Conv2d(4, 8, 1, bias=False))
    assert inner_bytes(pair, torch.zeros(1, 8, 4, 4)) == 4 * 16 * 4
    assert inner_bytes(pair.to("meta"), torch.zeros(1, 8, 4, 4, device="meta")) == 4 * 16 * 4


class Branches(Small):
    """Code that a trace decides otherwise than a run, and that stores what it sees."""

    def forward(self, x):
        self.seen = getattr(self, "seen", 0) + x.shape[0]
        height = x.shape[-2]
        if isinstance(height, int) and height > 4:
            x = 3 * x
        return super().forward(x)


def test_a_trace_that_computes_something_else_is_not_walked():
    model, images = Branches().eval(), torch.randn(3, 1, 8, 8)
    walk = Walk(model, images)
    assert not walk.traced and torch.equal(walk.output(), model(images))
    assert type(model.seen) is int
