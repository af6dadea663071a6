"""The settings of a run, declared once: the flags, the configuration file and this class come from the same lines.

This module imports neither torch nor Lightning, because ``--help`` reads it.
"""

from __future__ import annotations

from typing import Literal, Self

from leanconv.core.config import Config, setting
from leanconv.core.errors import SettingError

# how a run is executed rather than what it computes: may change on resuming
EXECUTION = ("workers", "threads", "record_gradients", "sync_norms")


class RunConfig(Config):
    """SGD with momentum and its schedule: what every run has, whatever it trains.

    Args:
        schedule: see `leanconv.train.schedules.learning_rate`.
        pct_start, div_factor, final_div_factor: of "onecycle", as in torch's OneCycleLR; the momentum stays.
        precision: "bf16" computes in bfloat16 where autocast allows it; the weights stay float32.
        no_decay_norm: no weight decay on biases and norms (every parameter of fewer than two dimensions).
        record_gradients: the largest and the mean absolute gradient of each shared weight, every ten steps, in gradients.jsonl.
        sync_norms: batch norms take their statistics over all GPUs of the run together, for few images on each.

    Raises:
        SettingError: an unknown setting or a value outside its rule.
    """

    epochs: int = setting("Passes over the train part.", default=30, least=1)
    batch_size: int = setting("Images a step, over all processes together.", default=128, least=1)
    lr: float = setting("Highest learning rate.", default=0.1, above=0)
    momentum: float = setting("Momentum of SGD.", default=0.9, least=0, below=1)
    nesterov: bool = setting("Nesterov momentum.", default=True)
    weight_decay: float = setting("Weight decay.", default=5e-4, least=0)
    schedule: Literal["cosine", "onecycle", "step", "plateau", "constant"] = setting(
        "How lr changes.", default="onecycle"
    )
    milestones: tuple[float, ...] = setting(
        "Where step multiplies by gamma: epochs, or below 1 fractions of them.", default=(0.5, 0.75)
    )
    gamma: float = setting("Factor of step and plateau.", default=0.1, above=0, below=1)
    patience: int = setting("Epochs that plateau waits for a lower validation loss.", default=5, least=0)
    warmup_epochs: float = setting("Epochs of linear warm-up.", default=0.0, least=0)
    pct_start: float = setting("Rising part of onecycle.", default=0.3, above=0, below=1)
    div_factor: float = setting("onecycle starts at lr divided by this.", default=25.0, least=1)
    final_div_factor: float = setting("onecycle ends at its start divided by this.", default=1e4, least=1)
    precision: Literal["fp32", "bf16"] = setting("bf16 computes in bfloat16 where that is safe.", default="fp32")
    channels_last: bool = setting("Memory layout of images and weights.", default=True)
    validation: float = setting(
        "Part of train held out to choose settings on; 0 trains on everything.", default=0.0, least=0, below=1
    )
    seed: int = setting("Where randomness starts.", default=0, least=0)
    workers: int = setting("Processes that decode images.", default=0, least=0)
    threads: int | None = setting("CPU threads.", default=None, least=1)
    no_decay_norm: bool = setting("No weight decay on biases and norms.", default=False)
    record_gradients: bool = setting(
        "Keep the gradients' sizes of shared weights, for analyse --what gradients.", default=False
    )
    sync_norms: bool = setting("Batch norms take their statistics over all GPUs together.", default=False)

    def scaled(self, factor: float) -> Self:
        """The same recipe over `factor` times its epochs; milestones, warm-up and patience shrink with them.

        Raises:
            SettingError: a factor outside (0, 1].
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
        if self.warmup_epochs and self.schedule in ("onecycle", "plateau"):
            raise SettingError(f"warmup_epochs={self.warmup_epochs} does not go with schedule={self.schedule!r}; set 0")
        if self.schedule == "step":
            epochs = self.milestone_epochs()
            if min(epochs, default=0) < 0 or list(epochs) != sorted(set(epochs)):
                raise SettingError(f"milestones={self.milestones} must rise; they are epochs {epochs} of {self.epochs}")
        if self.validation == 0 and self.schedule == "plateau":
            raise SettingError("schedule='plateau' follows the validation loss; set validation above 0, 0.1 say")


class TrainConfig(RunConfig):
    """The run of a classifier: `RunConfig`, and how images are fed and weights chosen.

    Args:
        image_size: pixels of the square that images are brought to; see `make_loader`.
        ten_crop: for the evaluation after the run; validation looks at one crop of each image.
        ema: decay per step of an averaged copy of the weights, which is then what is validated and kept.
        select: keep the weights of the last epoch, or of the one with the best validation accuracy.

    Raises:
        SettingError: an unknown setting or a value outside its rule.
    """

    label_smoothing: float = setting("Label smoothing.", default=0.0, least=0, below=1)
    augment: Literal["none", "crop", "crop_flip", "random_resized_crop"] = setting(
        "Changes to train images.", default="crop_flip"
    )
    image_size: int | None = setting(
        "Pixels a side that images are brought to; their own by default.", default=None, least=1
    )
    ten_crop: bool = setting("Test on ten crops of each image.", default=False)
    compile: bool = setting("Compile the network; needs a C++ compiler on a CPU.", default=False)
    ema: float | None = setting(
        "Decay of averaged weights, which are then the ones kept.", default=None, above=0, below=1
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
        if self.validation == 0 and self.select == "best":
            raise SettingError("select='best' needs a validation part; set validation above 0, 0.1 say")
