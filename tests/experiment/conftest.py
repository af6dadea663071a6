"""Small images, data sets of a user's own and a network to train in a tenth of a second."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

QUICK: dict[str, Any] = {"epochs": 2, "threads": 1, "batch_size": 32, "progress": False}


def striped(count: int) -> tuple[Tensor, Tensor]:
    """uint8 (N, 1, 8, 8) and labels: horizontal stripes, vertical stripes or none, under noise."""
    draw = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 60, (count, 1, 8, 8), generator=draw, dtype=torch.uint8)
    images[labels == 0, :, ::2, :] += 150
    images[labels == 1, :, :, ::2] += 150
    return images, labels


class Listed(Dataset[Any]):
    """A map-style data set of the user's: as ``kind`` says, "pil", "uint8" or "float"."""

    classes = ["rows", "columns", "none"]

    def __init__(self, count: int, kind: str = "float") -> None:
        self.images, self.targets = striped(count)
        self.kind, self.read = kind, 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.read += 1
        image, label = self.images[index], int(self.targets[index])
        if self.kind == "pil":
            return Image.fromarray(image[0].numpy()), label
        return (image if self.kind == "uint8" else image.float() / 255 - 0.3), label


class Net(nn.Sequential):
    def __init__(self, width: int = 8, classes: int = 3) -> None:
        super().__init__(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 16, 3, padding=1),
            nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, classes),
        )  # fmt: skip


@pytest.fixture
def pair() -> tuple[Listed, Listed]:
    """(train, test) as float tensors."""
    return Listed(120), Listed(30)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()
