"""What a classifier was trained for: how an image becomes its input, and what its outputs are called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from leanconv.core import settings
from leanconv.core.errors import SettingError


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
