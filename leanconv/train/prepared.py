"""Prepare the images of a data set as a network's `Task` states."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.core.meta import dry_run
from leanconv.core.modes import in_training
from leanconv.core.notes import get_base, get_task, set_task, task_of
from leanconv.core.task import Task
from leanconv.core.wrappers import unwrapped
from leanconv.data import ImageData, LabelledImages, Loader, make_loader
from leanconv.train.config import TrainConfig
from leanconv.train.evaluation import evaluate, in_outputs, outputs_for
from leanconv.train.scoring import Scores, logits_of


def task_on(model: nn.Module, data: ImageData) -> Task:
    """The task that is noted on `model`; for networks without one, the preparation of training on `data`.

    Images that a user's own data set prepares are not changed.

    Args:
        model: the network.
        data: the data set.

    Raises:
        SettingError: the images vary in size, and the network does not say its input size.
    """
    noted = get_task(model)
    if noted is not None and not data.prepared:
        return noted
    warn_if_unknown(model, data)
    size = task_of(model).image_size if data.image_size is None else data.image_size
    return Task(data.mean, data.std, size, data.names if noted is None else noted.classes)


def warn_if_unknown(model: nn.Module, data: ImageData) -> None:
    """Warn of a network of timm that may hold published weights, where the images are normalised as `data` says."""
    config = getattr(unwrapped(model), "pretrained_cfg", None) or {}
    published = config.get("hf_hub_id") or config.get("url")
    if published and not data.prepared and get_task(model) is None and get_base(model) is None:
        warnings.warn(
            f"the network does not say how its images were normalised in training, so it gets the mean and std of {data.name}; "
            'if it has the weights that timm publishes, say so: lc.note_task(model, like="timm")',
            LeanconvWarning, stacklevel=3,
        )  # fmt: skip


def note_training(model: nn.Module, data: ImageData, config: TrainConfig) -> None:
    """Let the task that is noted on `model` say how its images were prepared in a training on `data`."""
    task = get_task(model)
    if task is not None and not data.prepared:
        set_task(model, replace(task, mean=data.mean, std=data.std, image_size=image_size_of(data, config)))


def image_size_of(data: ImageData, config: TrainConfig) -> tuple[int, int]:
    """(height, width) in pixels of the images of `data` as a run gets them.

    Raises:
        SettingError: they vary in size, and `config` has no size.
    """
    size = data.image_size if config.image_size is None else (config.image_size, config.image_size)
    if size is None:
        raise SettingError(f"the images of {data.name} vary in size; give --image-size (image_size=), such as 224")
    return size


def parts_of(data: ImageData, config: TrainConfig) -> tuple[LabelledImages, LabelledImages | None]:
    """The images on which a run trains, and the images of the train part that it holds out for validation, or None."""
    return data.split(config.validation, config.seed) if config.validation else (data.train, None)


def check_fits(model: nn.Module, data: ImageData, size: tuple[int, int], *, classes: bool = True) -> None:
    """Raise SettingError unless `model` takes images of `data` and has an output for each class, by the classes' names.

    Args:
        model: the network.
        data: the data set.
        size: (height, width) of the images.
        classes: False checks the images alone, for a network with other outputs.
    """
    task = get_task(model)
    wanted, _ = outputs_for(() if task is None else task.classes, data.test)
    out, images = dry_run(model, (data.channels, *size), lambda twin, images: (twin(images), len(images)))
    if classes and tuple(logits_of(out).shape) != (images, wanted):
        raise SettingError(
            f"the network gives outputs of shape {tuple(out.shape[1:])} and {data.name} has {len(data.classes)} classes; "
            "take the data it was trained on"
        )


def check_trains(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Raise SettingError unless `model` returns scores of classes in training mode too, where some add auxiliary outputs.

    Args:
        model: the network; it is unchanged.
        input_size: (channels, height, width).
    """
    try:
        dry_run(model, input_size, lambda twin, images: logits_of(in_training(twin)(images)))
    except SettingError as error:
        raise SettingError(f"in training mode, {error}") from error


def labelled_batches(data: ImageData, task: Task, count: int, seed: int = 0, batch_size: int = 64) -> Loader:
    """Batches of `count` random training images, or of all if there are fewer, prepared as `task` states.

    The labels are numbers of the network's outputs, whatever order the classes of the data have.
    """
    rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    settings: dict[str, Any] = {"mean": task.mean, "std": task.std, "image_size": task.image_size}
    images = in_outputs(data.train.subset(rows), task.classes)
    return make_loader(images, batch_size=batch_size, train=False, **settings)


def scores_of(
    model: nn.Module, data: ImageData, task: Task, part: LabelledImages | None = None, **settings: Any
) -> Scores:
    """The scores of `model`, whose outputs are the classes of `task`, on a part of `data`, by default the test part.

    The images are prepared as in the network's training, for any data set: normalised with the mean and standard deviation
    of `task`, not with those of `data`.

    Args:
        model: the network.
        data: the data set.
        task: the image size, mean, std and classes of the network.
        part: the images; None for the test part.
        settings: settings of `evaluate`.
    """
    return evaluate(
        model, data.test if part is None else part, mean=task.mean, std=task.std, image_size=size_for(data, task),
        classes=task.classes, **settings,
    )  # fmt: skip


def some_batches(
    part: LabelledImages, data: ImageData, task: Task, count: int, *, seed: int = 0, batch_size: int | None = None
) -> Iterator[Tensor]:
    """`count` images of a part of `data`, drawn without repetition, in the network's input format.

    Args:
        part: the images to draw from.
        data: the data set.
        task: the image size, mean and std of the network.
        count: the number of images.
        seed: of the draw.
        batch_size: images in a batch; None puts all in one batch.
    """
    rows = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:count]
    loader = make_loader(
        part.subset(rows), mean=task.mean, std=task.std, batch_size=batch_size or len(rows), image_size=size_for(data, task),
        train=False,
    )  # fmt: skip
    return (images for images, _ in loader)


def training_batches(model: nn.Module, data: ImageData, count: int, *, seed: int = 0) -> list[Tensor]:
    """`count` images of the train part of `data`, as `model` takes them, in batches for `leanconv.convert`.

    Raises:
        SettingError: `model` does not take images of `data`.
    """
    task = task_on(model, data)
    check_fits(model, data, task.image_size)
    return list(some_batches(data.train, data, task, count, seed=seed, batch_size=128))


def size_for(data: ImageData, task: Task) -> tuple[int, int] | None:
    """The image size for `make_loader`; None if the images already have the network's size."""
    return None if data.image_size == task.image_size else task.image_size
