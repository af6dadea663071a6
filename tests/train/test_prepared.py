from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from leanconv.core.errors import LeanconvWarning
from leanconv.core.notes import get_task, set_task
from leanconv.core.task import Task
from leanconv.data import ImageData, TensorImages, open_data
from leanconv.deploy.images import image_tensor
from leanconv.models import create_model
from leanconv.models.task import note_task
from leanconv.train import TrainConfig, fit
from leanconv.train.prepared import labelled_batches, scores_of, some_batches, task_on


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


@pytest.mark.parametrize("vary", [False, True])
def test_a_network_says_its_preparation_or_gets_that_of_the_data(vary: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the images vary in size changes the size alone. Only published weights have a preparation of their own."""
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    part = TensorImages(images, torch.tensor([0, 1]))
    data = ImageData("photos", ("a", "b"), part, part, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    if vary:
        monkeypatch.setattr(TensorImages, "image_size", None)
    size = (160, 160) if vary else (32, 32)
    expected = Task(data.mean, data.std, size, ("a", "b"))
    assert task_on(create_model("timm/test_resnet", num_classes=2), data) == expected
    brought = timm.create_model("test_resnet", num_classes=2)
    with pytest.warns(
        LeanconvWarning, match=r"how its images were normalised .* lc\.note_task\(model, like=\"timm\"\)"
    ):
        assert task_on(brought, data) == expected
    published = Task((0.5,) * 3, (0.5,) * 3, (160, 160))
    assert note_task(brought, like="timm") == published and task_on(brought, data) == published


def test_a_training_notes_how_it_prepared_the_images(bright: ImageData, tmp_path: Path) -> None:
    config = TrainConfig(epochs=1, batch_size=4, validation=0, augment="none", threads=1)
    noted, untold = (nn.Sequential(nn.Flatten(), nn.Linear(64, 2)) for _ in range(2))
    set_task(noted, Task((0.5,), (0.25,), (4, 4), ("dark", "bright")))
    for name, model in (("noted", noted), ("untold", untold)):
        fit(model, bright, config, tmp_path / name, progress=False)
    assert get_task(noted) == Task((0.86,), (0.02,), (8, 8), ("dark", "bright")) and get_task(untold) is None


def test_images_of_a_task_that_is_no_square_are_those_of_predict(tmp_path: Path) -> None:
    files = []
    for part in ("train", "test"):
        for number, name in enumerate(("dark", "bright")):
            (tmp_path / part / name).mkdir(parents=True)
            files.append(tmp_path / part / name / "0.png")
            pixels = torch.randint(0, 255, (64 + 9 * number, 160, 3), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(files[-1])
    model, data, task = Bright(), open_data(tmp_path), Task((0.5,) * 3, (0.25,) * 3, (32, 64), ("bright", "dark"))
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    scores_of(model, data, task)
    expected = [image_tensor(file, task) for file in files]
    torch.testing.assert_close(
        seen[0], torch.cat(expected[:1:-1]), rtol=0, atol=1e-6
    )  # classes in order of their names
    for found in (next(some_batches(data.train, data, task, 2)), next(iter(labelled_batches(data, task, 2)))[0]):
        assert found.shape == (2, 3, 32, 64)
