"""The settings of a detector's run."""

from __future__ import annotations

from typing import Literal

from leanconv.core.config import setting
from leanconv.core.errors import SettingError
from leanconv.train.config import RunConfig


class DetectConfig(RunConfig):
    """`RunConfig` with a detector's defaults, and how photos are fed.

    The defaults are the field's "2x" schedule: 24 epochs, 16 photos a step at a rate of 0.02, a tenth of it after 16 and
    22 epochs, after a warm-up.

    Args:
        min_size: the shorter side that photos are brought to, in pixels; of several, one is drawn for each photo in
            training (multi-scale), and the last one is used afterwards.
        max_size: the longer side is at most that.
        flip: how likely a photo is mirrored in training.
        keep_empty: train on photos without an object too.
        clip: the largest norm of all gradients together; None does not clip.

    Raises:
        SettingError: an unknown setting or a value outside its rule.
    """

    epochs: int = 24
    batch_size: int = setting("Photos a step, over all processes together.", default=16, least=1)
    lr: float = setting(
        "Highest learning rate; the default is for 16 photos a step, and goes down with them.", default=0.02, above=0
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
    clip: float | None = setting("Largest norm of the gradients.", default=None, above=0)

    def _check_together(self) -> None:
        super()._check_together()
        if not self.min_size or min(self.min_size) < 1 or max(self.min_size) > self.max_size:
            raise SettingError(f"min_size={self.min_size} must be pixels, from 1 to max_size={self.max_size}")
        if self.validation:
            raise SettingError(f"validation={self.validation} holds nothing out of a detector's photos; give 0")
