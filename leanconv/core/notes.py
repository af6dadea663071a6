"""What is known of a network: how to build it again, what it was trained for and the input it takes.

The first two are in its record (`leanconv.core.record`); the input size is in the record or in an attribute of the model.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from leanconv.core.errors import SettingError
from leanconv.core.meta import InputSize
from leanconv.core.record import get_record, set_record
from leanconv.core.task import Task
from leanconv.core.wrappers import unwrapped

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def set_base(model: nn.Module, name: str, kwargs: Mapping[str, Any]) -> None:
    """Record on `model` that ``create_model(name, **kwargs)`` builds such a network.

    Nothing is recorded if a keyword is no JSON value, such as a class or a function. To load such a network, the user
    passes the model.
    """
    try:
        base = {"name": name, "kwargs": json.loads(json.dumps(dict(kwargs), allow_nan=False))}
    except (TypeError, ValueError):
        base = None
    set_record(model, replace(get_record(model), base=base))


def get_base(model: nn.Module) -> Mapping[str, Any] | None:
    """``{"name", "kwargs"}`` of a model that `create_model` built; None for other models."""
    return get_record(unwrapped(model)).base


def set_task(model: nn.Module, task: Task | None) -> None:
    """Note on `model` what it is for; `leanconv.save` keeps it."""
    model = unwrapped(model)
    set_record(model, replace(get_record(model), task=task))


def get_task(model: nn.Module) -> Task | None:
    """What `set_task` noted; None where nothing is."""
    return get_record(unwrapped(model)).task


def input_size_of(model: nn.Module) -> InputSize | None:
    """(channels, height, width) that `model` was trained for, else made for; None when it does not say.

    The first of these that is known: the task on the model (`leanconv.set_task`; training sets it), leanconv's
    ``default_input_size``, timm's ``pretrained_cfg``, torchvision's 224 pixels.

    >>> from leanconv.models import create_model
    >>> input_size_of(create_model("resnet20"))
    (3, 32, 32)
    """
    model = unwrapped(model)
    task = get_record(model).task
    if task is not None:
        return (task.channels, *task.image_size)
    own = getattr(model, "default_input_size", None)
    if own is not None:
        return image_size(own)
    base = get_base(model) or {"name": "", "kwargs": {}}
    config = getattr(model, "pretrained_cfg", None)
    if config is not None and config.get("input_size"):
        channels, height, width = image_size(config["input_size"])
        # timm gives the size of the published weights, even if the model was built with other in_chans
        return base["kwargs"].get("in_chans", channels), height, width
    if base["name"].startswith("torchvision/"):
        side = getattr(model, "image_size", 224)
        return 3, side, side
    return None


def image_size(size: Any) -> InputSize:
    """`size` as (channels, height, width).

    Raises:
        SettingError: `size` is not three whole numbers of at least 1.

    >>> image_size([3, 32, 32])
    (3, 32, 32)
    """
    try:
        channels, height, width = (operator.index(value) for value in size)
    except (TypeError, ValueError):
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise SettingError(f"input_size={size!r} must be (channels, height, width), three whole numbers of at least 1")
    return channels, height, width


def task_of(model: nn.Module, input_size: InputSize | None = None) -> Task:
    """What is noted on `model`, else timm's ``pretrained_cfg``, else ImageNet's statistics at the size it was made for.

    Args:
        input_size: (channels, height, width), in place of that size.

    Raises:
        SettingError: the network does not say its input size.
    """
    noted = get_task(model)
    if noted is not None and (input_size is None or input_size[0] == noted.channels):
        return noted if input_size is None else replace(noted, image_size=input_size[1:])
    size = input_size or input_size_of(model)
    if size is None:
        raise SettingError("this network does not say its input size; note it with lc.set_task(model, lc.Task(...))")
    config = getattr(unwrapped(model), "pretrained_cfg", None) or {}
    mean, std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
    if len(mean) != size[0]:
        mean, std = (0.5,) * size[0], (0.25,) * size[0]
    return Task(tuple(mean), tuple(std), size[1:])
