"""Networks that flatten their maps with `view`, as many textbooks do: they do not run in channels_last."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leanconv.budget.search import lean
from leanconv.core.errors import LeanconvWarning
from leanconv.core.layout import best_layout, is_channels_last
from leanconv.experiment.fit import evaluate, fit
from leanconv.inference.optimize import optimize
from leanconv.timing.latency import measure_latency
from leanconv.timing.race import race
from tests.experiment.conftest import QUICK, striped

IMAGES = torch.rand(2, 1, 8, 8)


class Textbook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(32 * 16, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.pool(self.second(self.first(images).relu()).relu())
        return self.fc(maps.view(-1, 32 * 16))


@pytest.fixture
def data() -> Any:
    return striped(60), striped(30)


def test_which_layout_suits_a_network() -> None:
    assert best_layout(Textbook(), (1, 8, 8)) == torch.contiguous_format
    assert (
        best_layout(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 3)), (1, 8, 8))
        == torch.channels_last
    )
    assert best_layout(Textbook(), (1, 12, 12)) == torch.channels_last, (
        "it runs in neither: its own error is shown elsewhere"
    )


def test_it_trains_and_runs_afterwards(data: Any) -> None:
    network = Textbook()
    with pytest.warns(LeanconvWarning, match=r"does not run in channels_last, .* x\.flatten\(1\) runs in both"):
        result = fit(network, data, **QUICK)
    assert evaluate(network, data) == result.scores
    assert network(IMAGES).shape == (2, 3) and not is_channels_last(network.second.weight)


def test_it_teaches(data: Any) -> None:
    student = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 3))
    with pytest.warns(LeanconvWarning, match="does not run in channels_last"):
        fit(student, data, teacher=Textbook(), **QUICK)


@pytest.mark.parametrize("measured", [True, False])
def test_it_is_optimised(measured: bool) -> None:
    network = Textbook().eval()
    fast = optimize(network, IMAGES, measured=measured, cache=None)
    assert torch.allclose(fast(IMAGES), network(IMAGES), atol=1e-5)


def test_it_is_timed_beside_others() -> None:
    networks = {"other": nn.Conv2d(1, 8, 3), "textbook": Textbook()}
    assert [entry.failed for entry in race(networks, IMAGES, seconds=0.01)] == [None, None]
    assert [found.name for found in measure_latency(networks, (1, 8, 8), channels_last=True, seconds=0.01)] == [
        *networks
    ]


def test_it_becomes_lean(data: Any) -> None:
    asked: dict[str, Any] = {
        "methods": ["low_rank"],
        "narrowed": 1,
        "images": 16,
        "points": 3,
        "controls": (),
        "cache": None,
    }
    with pytest.warns(LeanconvWarning, match="does not run in channels_last"):
        found = lean(Textbook(), data, "macs=0.6", recovery_epochs=1, progress=False, **asked)
    assert found.network(IMAGES).shape == (2, 3)
