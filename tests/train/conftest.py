"""A network and a data set small enough to train in a tenth of a second."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leanconv.data import ImageData, TensorImages
from leanconv.train import TrainConfig


class Unread(TensorImages):
    """Images that nobody may look at."""

    def __init__(self, labels: Tensor) -> None:
        super().__init__(torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), labels)
        del self.images

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the test part was read ({name})")

    @property
    def channels(self) -> int:
        return 1

    @property
    def image_size(self) -> tuple[int, int]:
        return 8, 8


def stripes(count: int = 162) -> TensorImages:
    """Horizontal stripes, vertical stripes or none under noise: three classes that a small network learns at once."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 60, (count, 1, 8, 8), generator=draw, dtype=torch.uint8)
    images[labels == 0, :, ::2, :] += 150
    images[labels == 1, :, :, ::2] += 150
    return TensorImages(images, labels)


@pytest.fixture
def data() -> ImageData:
    test = Unread(torch.tensor([0, 1, 2]))
    return ImageData("stripes", ("rows", "columns", "none"), stripes(), test, (0.3,), (0.2,))


class Net(nn.Sequential):
    """With batch norm and dropout, so that running statistics and random draws matter."""

    def __init__(self, *first: nn.Module, classes: int = 3) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, classes), *first,
        )  # fmt: skip


SMALL = TrainConfig(epochs=3, batch_size=32, lr=0.1, augment="crop", validation=0.2, threads=1)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
