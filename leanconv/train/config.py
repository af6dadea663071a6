"""The settings of a run, each declared once: the flags, the configuration file and the class use the same lines.

This module imports neither torch nor Lightning, because ``--help`` reads it.
"""

from __future__ import annotations

from typing import Literal, Self

from leanconv.core.config import Config, setting
from leanconv.core.errors import SettingError

# These settings change how a run is executed, not what it computes: they may change on resuming
EXECUTION = ("workers", "threads", "record_gradients", "sync_norms")


class RunConfig(Config):
    """SGD with momentum and its schedule: the settings of every run.

    Args:
        schedule: see `leanconv.train.schedules.learning_rate`.
        pct_start, div_factor, final_div_factor: of "onecycle" and "triangle", as in torch's OneCycleLR; the momentum is constant.
        precision: "bf16" computes in bfloat16 where autocast allows it; the weights stay float32. "auto" is "bf16" on a GPU or
            a CPU with such instructions, otherwise "fp32"; a run stores which of the two it is.
        no_decay_norm: no weight decay on biases and normalisation layers (every parameter with fewer than two dimensions).
        record_gradients: write the largest and the mean absolute gradient of each shared weight to gradients.jsonl, every
            ten steps.
        sync_norms: batch normalisation computes its statistics over all GPUs of the run, for few images on each GPU.

    Raises:
        SettingError: a setting is unknown, or a value breaks its rule.

    >>> RunConfig(epochs=100).scaled(0.1).epochs
    10
    """

    epochs: int = setting("Passes over the train part.", default=30, least=1)
    batch_size: int = setting("Images in a step, over all processes together.", default=128, least=1)
    lr: float = setting("Highest learning rate.", default=0.1, above=0)
    momentum: float = setting("Momentum of SGD.", default=0.9, least=0, below=1)
    nesterov: bool = setting("Nesterov momentum.", default=True)
    weight_decay: float = setting("Weight decay.", default=5e-4, least=0)
    schedule: Literal["cosine", "onecycle", "triangle", "step", "plateau", "constant"] = setting(
        "How lr changes.", default="onecycle"
    )
    milestones: tuple[float, ...] = setting(
        "Epochs at which step multiplies lr by gamma; below 1, fractions of all epochs.", default=(0.5, 0.75)
    )
    gamma: float = setting("Factor of step and plateau.", default=0.1, above=0, below=1)
    patience: int = setting("Epochs that plateau waits for a lower validation loss.", default=5, least=0)
    warmup_epochs: float = setting("Epochs of linear warm-up.", default=0.0, least=0)
    pct_start: float = setting("Rising part of onecycle and triangle.", default=0.3, above=0, below=1)
    div_factor: float = setting("onecycle and triangle start at lr divided by this.", default=25.0, least=1)
    final_div_factor: float = setting("onecycle and triangle end at their start divided by this.", default=1e4, least=1)
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "bf16 computes in bfloat16 where autocast allows it; auto does so where the machine is fast at it.", default="fp32"
    )
    channels_last: bool = setting("Memory layout of images and weights.", default=True)
    validation: float = setting(
        "Part of train that is held out to choose settings; 0 trains on all images.", default=0.0, least=0, below=1
    )
    seed: int = setting("Seed of all random numbers.", default=0, least=0)
    workers: int = setting("Processes that decode images.", default=0, least=0)
    threads: int | None = setting("CPU threads.", default=None, least=1)
    no_decay_norm: bool = setting("No weight decay on biases and normalisation layers.", default=False)
    record_gradients: bool = setting(
        "Record the gradients of shared weights, for analyse --what gradients.", default=False
    )
    sync_norms: bool = setting("Compute the statistics of batch normalisation over all GPUs together.", default=False)

    def scaled(self, factor: float) -> Self:
        """The same recipe for `factor` times its epochs; milestones, warm-up and patience are scaled too.

        Raises:
            SettingError: the factor is not in (0, 1].
        """
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 1:
            raise SettingError(f"scale={factor!r} must be a number above 0 and at most 1; 1 is the full length")
        epochs = max(1, round(self.epochs * factor))
        part = epochs / self.epochs
        return self.replace(
            epochs=epochs,
            milestones=tuple(m if m < 1 else m / self.epochs for m in self.milestones),
            warmup_epochs=self.warmup_epochs * part,
            patience=round(self.patience * part),
        )

    @property
    def averages(self) -> bool:
        """Whether the run averages its weights."""
        return False

    @property
    def keeps_best(self) -> bool:
        """Whether the run keeps the weights of its best epoch."""
        return False

    def milestone_epochs(self) -> tuple[float, ...]:
        """The milestones in epochs."""
        return tuple(m * self.epochs if m < 1 else m for m in self.milestones)

    def _check_together(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise SettingError("nesterov=True needs a momentum above 0; set nesterov=False")
        if self.warmup_epochs >= self.epochs:
            raise SettingError(f"warmup_epochs={self.warmup_epochs} must be below epochs={self.epochs}")
        if self.warmup_epochs and self.schedule in ("onecycle", "triangle", "plateau"):
            raise SettingError(
                f"warmup_epochs={self.warmup_epochs} cannot be combined with schedule={self.schedule!r}; set 0"
            )
        if self.schedule == "step":
            epochs = self.milestone_epochs()
            if min(epochs, default=0) < 0 or list(epochs) != sorted(set(epochs)):
                raise SettingError(f"milestones={self.milestones} must rise; they are epochs {epochs} of {self.epochs}")
        if self.validation == 0 and self.schedule == "plateau":
            raise SettingError(
                "schedule='plateau' follows the validation loss; set validation above 0, for example 0.1"
            )


class TrainConfig(RunConfig):
    """The settings of a classifier's run: `RunConfig`, and how images are fed and weights chosen.

    Args:
        image_size: side in pixels of the square to which images are scaled; see `make_loader`.
        ten_crop: use ten crops in the evaluation after the run; validation uses one crop of each image.
        ema: decay per step of an averaged copy of the weights; this copy is then validated and kept.
        lookahead: steps between two updates of the slow weights; see `leanconv.train.lookahead`.
        select: keep the weights of the last epoch, or of the epoch with the best validation accuracy.

    Raises:
        SettingError: a setting is unknown, or a value breaks its rule.

    >>> TrainConfig(epochs=10, validation=0.0, select="last").milestone_epochs()
    (5.0, 7.5)
    """

    label_smoothing: float = setting("Label smoothing.", default=0.0, least=0, below=1)
    augment: Literal["none", "crop", "crop_flip", "random_resized_crop"] = setting(
        "Augmentation of train images.", default="crop_flip"
    )
    crop_pad: int | None = setting(
        "Pixels of padding before a random crop; by default an eighth of the side.", default=None, least=0
    )
    crop_pad_mode: Literal["zeros", "reflect"] = setting("What the padding shows.", default="zeros")
    flip: Literal["random", "alternating"] = setting(
        "How images are mirrored; alternating mirrors each image in every second epoch.", default="random"
    )
    image_size: int | None = setting(
        "Side in pixels to which images are scaled; by default they keep their size.", default=None, least=1
    )
    ten_crop: bool = setting("Test on ten crops of each image.", default=False)
    compile: bool = setting("Compile the network; needs a C++ compiler on a CPU.", default=False)
    ema: float | None = setting("Decay of averaged weights, which are then kept.", default=None, above=0, below=1)
    lookahead: int | None = setting(
        "Steps after which the weights return to their slow average.", default=None, least=1
    )
    validation: float = 0.1
    select: Literal["last", "best"] = setting("Weights kept: last epoch, or best on validation.", default="last")

    @property
    def averages(self) -> bool:
        return self.ema is not None

    @property
    def keeps_best(self) -> bool:
        return self.select == "best"

    def _check_together(self) -> None:
        super()._check_together()
        if self.lookahead is not None and self.ema is not None:
            raise SettingError(f"lookahead={self.lookahead} and ema={self.ema} both average the weights; leave one out")
        if self.validation == 0 and self.select == "best":
            raise SettingError("select='best' needs a validation part; set validation above 0, for example 0.1")
