"""The task of a classifier: how an image becomes its input, and the names of its outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from leanconv.core import settings
from leanconv.core.errors import SettingError


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
