"""The settings of training a detector."""

from __future__ import annotations

from typing import Literal

from leanconv.core.config import setting
from leanconv.core.errors import SettingError
from leanconv.train.config import RunConfig


class DetectConfig(RunConfig):
    """`RunConfig` with defaults for detectors, and the settings of their photos.

    The defaults are the usual "2x" schedule: a warm-up, 24 epochs, 16 photos in a step, a learning rate of 0.02 that falls to a
    tenth after 16 and after 22 epochs. The learning rate does not follow `batch_size`.

    >>> config = DetectConfig(epochs=12)
    >>> config.batch_size, config.min_size
    (16, (800,))

    Args:
        min_size: the shorter side of a resized photo, in pixels. With several values, one is drawn for each photo in training
            (multi-scale training), and the last one is used in evaluation.
        max_size: the largest longer side of a resized photo, in pixels.
        flip: the probability that a photo is mirrored in training.
        keep_empty: also train on photos without an object.
        distill_weight: loss = (1 - distill_weight) detector's losses + distill_weight loss of `leanconv.detect.distill`, for a
            run with a teacher. With 1, the heads are not trained, and labels are not used.

    Raises:
        SettingError: a setting is unknown, or a value is out of its range.
    """

    epochs: int = 24
    batch_size: int = setting("Photos a step, over all processes together.", default=16, least=1)
    lr: float = setting(
        "Highest learning rate; the default is for 16 photos a step: with fewer, give one as much lower, 0.005 with 4.",
        default=0.02,
        above=0,
    )
    nesterov: bool = False
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "onecycle", "step", "constant"] = "step"
    milestones: tuple[float, ...] = (0.67, 0.92)
    warmup_epochs: float = 0.07
    workers: int = setting("Processes that decode photos.", default=0, least=0)
    min_size: tuple[int, ...] = setting(
        "Pixels of a photo's shorter side; of several, one is drawn for each (multi-scale).", default=(800,)
    )
    max_size: int = setting("Pixels of its longer side, at most.", default=1333, least=1)
    flip: float = setting("How likely a photo is mirrored.", default=0.5, least=0, most=1)
    keep_empty: bool = setting("Train on photos without an object too.", default=False)
    distill_weight: float = setting(
        "Share of the loss against the teacher's feature maps; the labels have the rest.", default=0.5, above=0, most=1
    )

    def _check_together(self) -> None:
        super()._check_together()
        if not self.min_size or min(self.min_size) < 1 or max(self.min_size) > self.max_size:
            raise SettingError(f"min_size={self.min_size} must be pixels, from 1 to max_size={self.max_size}")
        if self.validation:
            raise SettingError(f"validation={self.validation} is not possible for detectors; give 0")
