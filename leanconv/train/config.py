"""The settings of a run: one frozen, checked object that is written beside its results."""

from __future__ import annotations

import difflib
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leanconv.core.errors import SettingError

# how a run is executed rather than what it computes: may change on resuming
EXECUTION = ("workers", "threads", "record_gradients", "sync_norms")


class RunConfig(BaseModel):
    """SGD with momentum and its schedule: what every run has, whatever it trains.

    Args:
        batch_size: images per step over all processes together.
        lr: the highest learning rate of the run.
        schedule: see `leanconv.train.schedules.learning_rate`.
        milestones: where "step" multiplies by `gamma`; below 1 a fraction of the epochs, else an epoch.
        gamma: factor of "step" and "plateau".
        patience: epochs without a lower validation loss that "plateau" waits for.
        warmup_epochs: epochs over which the learning rate first rises linearly.
        pct_start, div_factor, final_div_factor: of "onecycle", as in torch's OneCycleLR; the momentum stays.
        precision: "bf16" computes in bfloat16 where autocast allows it; the weights stay float32.
        channels_last: the memory layout of images and weights.
        validation: fraction of the train part held out; 0 trains on all of it and selects nothing.
        no_decay_norm: no weight decay on biases and norms (every parameter of fewer than two dimensions).
        record_gradients: the largest and the mean absolute gradient of each shared weight, every ten steps, in gradients.jsonl.
        sync_norms: batch norms take their statistics over all GPUs of the run together, for few images on each.

    Raises:
        SettingError: an unknown setting or a value outside its rule.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(128, ge=1)
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["cosine", "onecycle", "step", "plateau", "constant"] = "onecycle"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(5, ge=0)
    warmup_epochs: float = Field(0.0, ge=0)
    pct_start: float = Field(0.3, gt=0, lt=1)
    div_factor: float = Field(25.0, ge=1)
    final_div_factor: float = Field(1e4, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    validation: float = Field(0.0, ge=0, lt=1)
    seed: int = Field(0, ge=0)
    workers: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)
    no_decay_norm: bool = False
    record_gradients: bool = False
    sync_norms: bool = False

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise SettingError(_first(error, type(self))) from None
        self._check_together()

    def replace(self, **settings: Any) -> Self:
        """A copy with some settings changed, checked again."""
        return type(self)(**{**self.model_dump(), **settings})

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

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    augment: Literal["none", "crop", "crop_flip", "random_resized_crop"] = "crop_flip"
    image_size: int | None = Field(None, ge=1)
    ten_crop: bool = False
    compile: bool = False
    ema: float | None = Field(None, gt=0, lt=1)
    validation: float = Field(0.1, ge=0, lt=1)
    select: Literal["last", "best"] = "last"

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


def _first(error: ValidationError, config: type[RunConfig]) -> str:
    """One line: the setting, its value, the rule."""
    problem = error.errors()[0]
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, config.model_fields, n=1)
        valid = f"did you mean {close[0]}?" if close else f"valid are {', '.join(config.model_fields)}"
        return f"{name}={problem['input']!r}: no such setting; {valid}"
    rule = problem["msg"].replace("Input should be", "must be")
    return f"{name}={problem['input']!r}: {rule[0].lower()}{rule[1:]}"
