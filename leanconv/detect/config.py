"""The settings of training a detector."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leanconv.core.errors import SettingError
from leanconv.train.config import RunConfig


class DetectConfig(RunConfig):
    """`RunConfig` with defaults for detectors, and the settings of their photos.

    The defaults are the usual "2x" schedule: a warm-up, 24 epochs, 16 photos in a step, a learning rate of 0.02 that falls to a
    tenth after 16 and after 22 epochs.

    >>> config = DetectConfig(epochs=12)
    >>> config.batch_size, config.min_size
    (16, (800,))

    Args:
        min_size: the shorter side of a resized photo, in pixels. With several values, one is drawn for each photo in training
            (multi-scale training), and the last one is used in evaluation.
        max_size: the largest longer side of a resized photo, in pixels.
        flip: the probability that a photo is mirrored in training.
        keep_empty: also train on photos without an object.
        clip: the largest norm of all gradients together; None does not clip.

    Raises:
        SettingError: a setting is unknown, or a value is out of its range.
    """

    epochs: int = Field(24, ge=1)
    batch_size: int = Field(16, ge=1)
    lr: float = Field(0.02, gt=0)
    nesterov: bool = False
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["cosine", "onecycle", "step", "constant"] = "step"
    milestones: tuple[float, ...] = (0.67, 0.92)
    warmup_epochs: float = Field(0.07, ge=0)
    min_size: tuple[int, ...] = (800,)
    max_size: int = Field(1333, ge=1)
    flip: float = Field(0.5, ge=0, le=1)
    keep_empty: bool = False
    clip: float | None = Field(None, gt=0)

    def _check_together(self) -> None:
        super()._check_together()
        if not self.min_size or min(self.min_size) < 1 or max(self.min_size) > self.max_size:
            raise SettingError(f"min_size={self.min_size} must be pixels, from 1 to max_size={self.max_size}")
        if self.validation:
            raise SettingError(f"validation={self.validation} is not possible for detectors; give 0")
