"""What a classifier was trained for: how an image becomes its input, and what its outputs are called."""

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
    """Args:
        mean, std: for each channel, of pixels in [0, 1].
        image_size: (height, width) of the network's input.
        classes: names of the outputs in their order; () where they are not known.

    Raises:
        SettingError: a value of another kind, a mean and std that differ in length, or a name that is empty or used twice.
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
        """Of the image: 1 is grey, 3 is RGB."""
        return len(self.mean)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Task:
        """What `to_json` gave.

        Raises:
            SettingError: something else.
        """
        if not isinstance(value, dict) or set(value) != {"mean", "std", "image_size", "classes"}:
            raise SettingError(f"the task {value!r} must hold mean, std, image_size and classes")
        return cls(**value)


def set_task(model: nn.Module, task: Task | None) -> None:
    """Note on `model` what it is for; `leanconv.save` keeps it."""
    model = unwrapped(model)
    set_record(model, replace(get_record(model), task=task))


def get_task(model: nn.Module) -> Task | None:
    """What `set_task` noted; None where nothing is."""
    return get_record(unwrapped(model)).task


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
