from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from leanconv.core.notes import set_task
from leanconv.core.task import Task
from leanconv.data import ImageData, TensorImages
from leanconv.train.prepared import scores_of, task_on


class Bright(nn.Module):
    """Class 1 for images brighter than the mean it was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.mean((1, 2, 3))
        return torch.stack([-brightness, brightness], 1)


def grey(values: list[int], labels: list[int]) -> TensorImages:
    images = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return TensorImages(images, torch.tensor(labels))


@pytest.fixture
def bright() -> ImageData:
    """Another data set of the same task, whose own mean is far from the one of training."""
    part = grey([200, 210, 220, 230, 120], [1, 1, 1, 1, 0])
    return ImageData("bright", ("dark", "bright"), part, part, (0.86,), (0.02,))


def test_images_of_another_data_set_are_normalised_as_in_training(bright: ImageData) -> None:
    model = Bright()
    set_task(model, Task((0.5,), (0.25,), (8, 8), ("dark", "bright")))
    assert scores_of(model, bright, task_on(model, bright)).top1_pct == 100
    untold = Bright()  # nothing is noted on it: the data set's own statistics are the only ones there are
    assert scores_of(untold, bright, task_on(untold, bright)).top1_pct == 60
