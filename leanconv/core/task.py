"""The task of a classifier: how an image becomes its input, and the names of its outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from leanconv.core import settings
from leanconv.core.base import input_size_of, unwrapped
from leanconv.core.errors import SettingError
from leanconv.core.meta import InputSize
from leanconv.core.record import get_record, set_record

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Task:
    """The normalisation, the image size and the class names of a classifier.

    Args:
        mean, std: one value for each channel, for pixels in [0, 1].
        image_size: (height, width) of the network's input in pixels.
        classes: the names of the outputs, in their order; () when unknown.

    Raises:
        SettingError: a value has a wrong type, `mean` and `std` differ in length, or a name is empty or used twice.

    >>> Task(mean=(0.5,), std=(0.25,), image_size=(28, 28), classes=("cat", "dog")).channels
    1
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, kind in (("mean", int | float), ("std", int | float), ("image_size", int), ("classes", str)):
            value = getattr(self, name)
            whole = isinstance(value, Sequence) and not isinstance(value, str)
            if not whole or not all(isinstance(v, kind) and not isinstance(v, bool) for v in value):
                raise SettingError(f"{name}={value!r} must be a sequence of {kind}")
            object.__setattr__(self, name, tuple(value))
        settings.check_names("classes", self.classes)
        if not self.mean or len(self.mean) != len(self.std):
            raise SettingError(f"mean={self.mean} and std={self.std} must have one value for each channel")
        if not all(map(math.isfinite, self.mean + self.std)) or min(self.std) <= 0:
            raise SettingError(f"std={self.std} must be above 0, and mean={self.mean} and std finite")
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise SettingError(f"image_size={self.image_size} must be (height, width), each at least 1")

    @property
    def channels(self) -> int:
        """The number of channels of the image: 1 for grey, 3 for RGB."""
        return len(self.mean)

    def to_json(self) -> dict[str, Any]:
        """The task as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Task:
        """The task that `to_json` returned as plain values.

        Raises:
            SettingError: `value` is not such a dict.
        """
        if not isinstance(value, dict) or set(value) != {"mean", "std", "image_size", "classes"}:
            raise SettingError(f"the task {value!r} must hold mean, std, image_size and classes")
        return cls(**value)


def set_task(model: nn.Module, task: Task | None) -> None:
    """Record the task on `model`; `leanconv.save` stores the task in the file."""
    model = unwrapped(model)
    set_record(model, replace(get_record(model), task=task))


def get_task(model: nn.Module) -> Task | None:
    """The task that `set_task` recorded; None without a recorded task."""
    return get_record(unwrapped(model)).task


def task_of(model: nn.Module, input_size: InputSize | None = None) -> Task:
    """The task of `model`: the recorded task, otherwise timm's ``pretrained_cfg``, otherwise ImageNet's mean and std.

    Args:
        input_size: (channels, height, width), in place of the input size of the model.

    Raises:
        SettingError: the input size of the model is unknown.
    """
    noted = get_task(model)
    if noted is not None and (input_size is None or input_size[0] == noted.channels):
        return noted if input_size is None else replace(noted, image_size=input_size[1:])
    size = input_size or input_size_of(model)
    if size is None:
        raise SettingError("the input size of this network is unknown; set it with lc.set_task(model, lc.Task(...))")
    config = getattr(unwrapped(model), "pretrained_cfg", None) or {}
    mean, std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
    if len(mean) != size[0]:
        mean, std = (0.5,) * size[0], (0.25,) * size[0]
    return Task(tuple(mean), tuple(std), size[1:])
