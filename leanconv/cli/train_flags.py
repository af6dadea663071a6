"""One flag for each training setting, for every verb that trains.

They are written out here because `TrainConfig` cannot be read without importing torch, which `--help` should not wait
for; a test holds the two equal.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from leanconv.core.errors import SettingError

if TYPE_CHECKING:
    from leanconv.data import ImageData
    from leanconv.train import TrainConfig

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Flag:
    """A setting of `TrainConfig` on the command line; `default` is only shown, since a recipe may have another."""

    name: str
    kind: Any
    default: Any
    help: str

    def option(self) -> Any:
        name = self.name.replace("_", "-")
        declared = f"--{name}"
        if self.kind is bool:
            declared += f"/--no-{name}".replace("--no-no-", "--")
        kind = str if self.kind is tuple else self.kind
        text = ",".join(map(str, self.default)) if isinstance(self.default, tuple) else str(self.default)
        shown = {"None": "", "True": " [on]", "False": ""}.get(text, f" [{text}]")
        return Annotated[kind | None, typer.Option(declared, help=self.help + shown)]


FLAGS = (
    Flag("epochs", int, 30, "Passes over the train part."),
    Flag("batch_size", int, 128, "Images a step, over all processes together."),
    Flag("lr", float, 0.1, "Highest learning rate."),
    Flag("momentum", float, 0.9, "Momentum of SGD."),
    Flag("nesterov", bool, True, "Nesterov momentum."),
    Flag("weight_decay", float, 5e-4, "Weight decay."),
    Flag("schedule", Literal["cosine", "onecycle", "step", "plateau", "constant"], "onecycle", "How lr changes."),
    Flag("milestones", tuple, (0.5, 0.75), "Where step multiplies by gamma: epochs, or below 1 fractions of them."),
    Flag("gamma", float, 0.1, "Factor of step and plateau."),
    Flag("patience", int, 5, "Epochs that plateau waits for a lower validation loss."),
    Flag("warmup_epochs", float, 0.0, "Epochs of linear warm-up."),
    Flag("pct_start", float, 0.3, "Rising part of onecycle."),
    Flag("div_factor", float, 25.0, "onecycle starts at lr divided by this."),
    Flag("final_div_factor", float, 1e4, "onecycle ends at its start divided by this."),
    Flag("label_smoothing", float, 0.0, "Label smoothing."),
    Flag(
        "augment", Literal["none", "crop", "crop_flip", "random_resized_crop"], "crop_flip", "Changes to train images."
    ),
    Flag("image_size", int, None, "Pixels a side that images are brought to; their own by default."),
    Flag("ten_crop", bool, False, "Test on ten crops of each image."),
    Flag("precision", Literal["fp32", "bf16"], "fp32", "bf16 computes in bfloat16 where that is safe."),
    Flag("channels_last", bool, True, "Memory layout of images and weights."),
    Flag("compile", bool, False, "Compile the network; needs a C++ compiler on a CPU."),
    Flag("ema", float, None, "Decay of averaged weights, which are then the ones kept."),
    Flag("validation", float, 0.1, "Part of train held out to choose settings on; 0 trains on everything."),
    Flag("select", Literal["last", "best"], "last", "Weights kept: last epoch, or best on validation."),
    Flag("seed", int, 0, "Where randomness starts."),
    Flag("workers", int, 0, "Processes that decode images."),
    Flag("threads", int, None, "CPU threads."),
    Flag("no_decay_norm", bool, False, "No weight decay on biases and norms."),
    Flag("record_gradients", bool, False, "Keep the gradients' sizes of shared weights, for analyse --what gradients."),
    Flag("sync_norms", bool, False, "Batch norms take their statistics over all GPUs together."),
)

Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Settings that the flags change. Default: quick_digits for digits, else cifar_fast, "
        "which may differ from the [values] below.",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to train; auto takes a GPU if there is one.")
]
Devices = Annotated[
    int | None,
    typer.Option(
        "--devices", min=1, help="How many GPUs, or CPU processes. Default: what torchrun or srun started, or 1."
    ),
]
Loggers = Annotated[
    list[Literal["tensorboard", "csv", "wandb"]] | None,
    typer.Option("--logger", help="Where metrics go beside metrics.jsonl. May be given again."),
]


def device_of(asked: str) -> str:
    """What --device means on this machine."""
    import torch

    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def with_flags(flags: Sequence[Flag], function: Function) -> Function:
    """Give `function`, which ends in ``**settings``, these flags; those not given arrive as None."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    own = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values() if p.name != "settings"]
    added = [
        inspect.Parameter(flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=flag.option())
        for flag in flags
    ]
    function.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
    return function


with_train_flags = partial(with_flags, FLAGS)


def train_config(recipe: str | None, data: ImageData, settings: dict[str, Any]) -> TrainConfig:
    """The recipe (by default one that suits `data`) with the flags that were given on top."""
    from leanconv.train.recipes import RECIPES

    name = recipe or ("quick_digits" if data.name == "digits" else "cifar_fast")
    if name not in RECIPES:
        raise SettingError(f"--recipe {name!r} does not exist; there are {', '.join(RECIPES)}")
    return RECIPES[name]().replace(**given_flags(FLAGS, settings))


def given_flags(flags: Sequence[Flag], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given, lists as numbers."""
    given = {key: value for key, value in settings.items() if value is not None}
    for flag in flags:
        if flag.kind is tuple and flag.name in given:
            given[flag.name] = numbers(f"--{flag.name.replace('_', '-')}", given[flag.name])
    return given


def numbers(flag: str, text: str) -> tuple[float, ...]:
    """``0.5,0.75`` as numbers, whole ones as such.

    Raises:
        SettingError: something else.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise SettingError(f"{flag} {text!r} must be numbers with commas between them: 0.5,0.75 or 30,60,90") from None
    return tuple(int(value) if value.is_integer() else value for value in values)
