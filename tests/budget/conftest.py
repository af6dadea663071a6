"""A small network, striped images, and a search that takes a second."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

QUICK: dict[str, Any] = {
    "methods": ("tied_block", "shared_basis"), "align": 4, "images": 24, "points": 3, "recovery_epochs": 0, "controls": (),
    "threads": 1, "progress": False, "cache": None, "narrowed": 0,
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


class Stop:
    """Interrupts at an event of a stage, like Ctrl-C."""

    def __init__(self, stage: str, number: int) -> None:
        self.stage, self.left = stage, number

    def __call__(self, event: Any) -> None:
        self.left -= getattr(event, "stage", "") == self.stage
        if self.left == 0:
            raise KeyboardInterrupt


def striped(count: int) -> tuple[Tensor, Tensor]:
    """uint8 (N, 1, 8, 8) and labels: horizontal stripes, vertical stripes or none, under noise."""
    draw = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 60, (count, 1, 8, 8), generator=draw, dtype=torch.uint8)
    images[labels == 0, :, ::2, :] += 150
    images[labels == 1, :, :, ::2] += 150
    return images, labels


def quick_timing(patch: pytest.MonkeyPatch) -> None:
    """Let the timing of whole networks take no time."""
    patch.setattr("leanconv.budget.flow.FINAL_SECONDS", 0.02)
    patch.setattr("leanconv.budget.times.SECONDS", 0.02)
    patch.setattr("leanconv.timing.latency.WARM_UP_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def _quick_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_timing(monkeypatch)


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    """`Small`, trained for some steps on striped images."""
    torch.manual_seed(0)
    model = Small()
    images, labels = striped(120)
    mean, std = (images / 255).mean(), (images / 255).std()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for rows in torch.randperm(120).split(24) * 6:
        loss = nn.functional.cross_entropy(model((images[rows] / 255 - mean) / std), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture
def data() -> Any:
    """(train, test), each images and labels."""
    return striped(120), striped(60)
