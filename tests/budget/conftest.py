"""A small network, striped images, and a search that takes a second."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc

QUICK: dict[str, Any] = {
    "methods": ("tied_block", "shared_basis"), "align": 4, "images": 24, "points": 3, "recovery_epochs": 0, "controls": (),
    "threads": 1, "progress": False, "cache": None,
}  # fmt: skip


class Small(nn.Module):
    """A network of a user's own, with a residual in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.a = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.b = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.c = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.relu_(self.b(self.a(x)) + x)
        return self.fc(self.c(x).mean((2, 3)))


class Untraceable(Small):
    """The same network with control flow that a tracer cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.detach().sum()) > -1e9 else -x)


def striped(count: int) -> tuple[Tensor, Tensor]:
    """uint8 (N, 1, 8, 8) and labels: horizontal stripes, vertical stripes or none, under noise."""
    draw = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 60, (count, 1, 8, 8), generator=draw, dtype=torch.uint8)
    images[labels == 0, :, ::2, :] += 150
    images[labels == 1, :, :, ::2] += 150
    return images, labels


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    """`Small`, trained for a few epochs on striped images."""
    torch.manual_seed(0)
    model = Small()
    lc.fit(model, (striped(120), striped(60)), epochs=4, threads=1, batch_size=24, lr=0.05, progress=False)
    return model.eval()


@pytest.fixture
def data() -> Any:
    return striped(120), striped(60)
