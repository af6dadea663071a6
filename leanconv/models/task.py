"""Note on a network of the user what it was trained for: classes, normalisation and image size."""

from __future__ import annotations

import contextlib
from typing import Any

from torch import nn

from leanconv.core.errors import SettingError
from leanconv.core.meta import dry_run
from leanconv.core.notes import get_base, get_task, input_size_of, set_task
from leanconv.core.task import Task
from leanconv.core.task_settings import TaskSettings
from leanconv.core.wrappers import unwrapped

Preparation = tuple[tuple[float, ...], tuple[float, ...], tuple[int, int] | None]


def note_task(model: nn.Module, **settings: Any) -> Task:
    """Note on `model` how its images were prepared in training, and what its outputs are called.

    `leanconv.save`, `leanconv.export` and all that tests the network use it. Only what is given changes; a network that has
    no task yet needs mean and std, or `like`.

    Args:
        model: the network.
        settings: of `TaskSettings`: classes, mean, std, image_size (pixels a side), like ("timm" or "torchvision").

    Raises:
        SettingError: a value breaks its rule, something needed is missing, or the number of names is not that of the outputs.

    >>> from leanconv.models import create_model
    >>> model = create_model("timm/resnet18", num_classes=2)
    >>> note_task(model, classes=("cat", "dog"), like="timm").image_size
    (224, 224)
    """
    task = task_from(model, TaskSettings(**settings))
    set_task(model, task)
    return task


def note_published(model: nn.Module, library: str) -> None:
    """Note on a network with published weights how the images of their training were prepared; its classes stay unknown.

    Nothing is noted where the library does not say it, or where the network takes other channels than those images have.

    Args:
        model: the network.
        library: "timm" or "torchvision".
    """
    with contextlib.suppress(SettingError):
        note_task(model, like=library)


def task_from(model: nn.Module, given: TaskSettings) -> Task:
    """The task of `model` with what is `given`; see `note_task`."""
    noted = get_task(model)
    mean, std, size = _preparation(model, given, noted)
    if given.image_size is not None:
        size = (given.image_size, given.image_size)
    if size is None:
        raise SettingError("this network does not say its input size; give --image-size (image_size=), such as 224")
    declared = input_size_of(model)
    if noted is None and declared is not None and declared[0] != len(mean):
        raise SettingError(f"mean={mean} has {len(mean)} values, and the network takes {declared[0]} channels")
    names = given.classes if given.classes is not None else () if noted is None else noted.classes
    task = Task(mean, std, size, names)
    if given.classes is not None:
        _check_count(model, task)
    return task


def _preparation(model: nn.Module, given: TaskSettings, noted: Task | None) -> Preparation:
    if given.like is not None:
        return _like_timm(model) if given.like == "timm" else _like_torchvision(model)
    declared = input_size_of(model)
    size = None if declared is None else declared[1:]
    if given.mean is not None and given.std is not None:
        return given.mean, given.std, size
    if noted is not None:
        return noted.mean, noted.std, noted.image_size
    raise SettingError(
        "it is not known how the images were normalised in training; give --mean and --std (mean=, std=), or --like timm "
        "or --like torchvision (like=) for the values of these libraries"
    )


def _like_timm(model: nn.Module) -> Preparation:
    config = getattr(unwrapped(model), "pretrained_cfg", None) or {}
    if not config.get("mean") or not config.get("std"):
        raise SettingError("--like timm (like=): this network has no settings of timm; give --mean and --std")
    size = input_size_of(model)
    return tuple(config["mean"]), tuple(config["std"]), None if size is None else size[1:]


def _like_torchvision(model: nn.Module) -> Preparation:
    from torchvision.models import get_model_weights

    source, _, name = ((get_base(model) or {"name": ""})["name"]).partition("/")
    if source != "torchvision":
        raise SettingError(
            "--like torchvision (like=): the network is not one of torchvision by name; give --mean and --std"
        )
    weights: Any = get_model_weights(name)
    prepared = weights.DEFAULT.transforms()
    side = prepared.crop_size[0]
    return tuple(prepared.mean), tuple(prepared.std), (side, side)


def _check_count(model: nn.Module, task: Task) -> None:
    shape = (task.channels, *task.image_size)
    out = dry_run(model, shape, lambda twin, images: twin(images))
    if getattr(out, "ndim", 0) == 2 and out.shape[1] != len(task.classes):
        raise SettingError(
            f"classes: {len(task.classes)} names are given, and the network has {out.shape[1]} outputs; give one name for each"
        )
