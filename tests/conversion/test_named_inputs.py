"""Layers that a network calls by torch's name of their input, ``conv(input=x)``, work as if they were called by position."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.analyse.layers import outputs_of
from leanconv.budget.walk import Walk
from leanconv.conversion.moments import collect

IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SIZE = (3, 8, 8)


class Named(nn.Module):
    """A network that passes inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.hidden, self.fc = nn.BatchNorm2d(16), nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(input=self.b(input=self.a(input=x))).relu()
        return self.fc(input=self.hidden(input=x.mean((2, 3))))


class Untraceable(Named):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.detach().sum()) > -1e9 else -x)


class Positional(Named):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.hidden(self.norm(self.b(self.a(x))).relu().mean((2, 3))))


@pytest.fixture(params=[Named, Untraceable])
def model(request: pytest.FixtureRequest) -> Any:
    return request.param().eval()


@pytest.fixture
def usual() -> nn.Module:
    return Positional().eval()


@pytest.mark.parametrize("method", [lc.LowRank(rank=4), lc.TiedBlock(blocks=2)], ids=lambda method: method.name)
def test_lean_networks_compute_and_become_fast(method: lc.Method, model: nn.Module, usual: nn.Module) -> None:
    lean, wanted = (
        lc.convert(network, method, init="fit", data=[IMAGES], input_size=SIZE, include="linear")
        for network in (model, usual)
    )
    assert torch.equal(lean.eval()(IMAGES), wanted.eval()(IMAGES))
    fast = lc.optimize(lean, IMAGES, measured=False)
    torch.testing.assert_close(fast(IMAGES), wanted(IMAGES), rtol=1e-4, atol=1e-5)


def test_norms_moments_and_outputs_are_measured(model: nn.Module, usual: nn.Module) -> None:
    for network in (model, usual):
        lc.reestimate_norms_(network, [IMAGES])
    assert torch.equal(model(IMAGES), usual(IMAGES))
    found, wanted = (collect(network, ["b", "fc"], [IMAGES]) for network in (model, usual))
    assert all(torch.equal(found[name].second, wanted[name].second) for name in wanted)
    with outputs_of(model, "b", inputs=True) as seen:
        model(IMAGES)
    assert torch.equal(seen[0], model.a(IMAGES))


def test_a_search_reads_and_replaces_layers(model: nn.Module) -> None:
    walk = Walk(model, IMAGES)
    walk.go("b")
    assert torch.equal(walk.given, model.a(IMAGES)) and torch.equal(walk.dense, model.b(walk.given))
    assert torch.equal(walk.output({"b": model.b}), model(IMAGES))


def test_channels_are_removed_by_activations(model: nn.Module, usual: nn.Module) -> None:
    settings: dict[str, Any] = {"macs": 0.5, "criterion": "activation", "data": [IMAGES], "input_size": SIZE}
    assert torch.equal(lc.prune(model, **settings)(IMAGES), lc.prune(usual, **settings)(IMAGES))
