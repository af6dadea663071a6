"""A flag for each setting of a `Config`, for every verb that trains."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from leanconv.core.config import Config, Setting
from leanconv.core.errors import SettingError
from leanconv.train.config import TrainConfig
from leanconv.train.recipes import RECIPES, SMALL, default_recipe

Function = TypeVar("Function", bound=Callable[..., Any])

# the recipes that suit the digits, small images and photos
USUAL = tuple(default_recipe(*case) for case in (("digits", None), ("", (SMALL, SMALL)), ("", None)))
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help=f"Settings that the flags change. Default: {USUAL[0]} for digits, {USUAL[1]} for images of up to {SMALL} pixels, "
        f"else {USUAL[2]}; the [values] below are theirs.",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option("--device", help="The device of the computation; auto takes a GPU if there is one."),
]
Devices = Annotated[
    int | None,
    typer.Option(
        "--devices",
        min=1,
        help="Number of GPUs or CPU processes. Default: the processes that torchrun or srun started, or 1.",
    ),
]
Loggers = Annotated[
    list[str] | None,
    typer.Option(
        "--logger",
        metavar="NAME",
        help="Write metrics also to tensorboard, csv or wandb, beside metrics.jsonl. May be repeated.",
    ),
]


def flag(setting: Setting) -> str:
    """The flag of a setting on the command line."""
    return f"--{setting.name.replace('_', '-')}"


def resolved(name: str) -> str:
    """The value of a training setting in a run without flags, by the recipe that suits the data.

    >>> resolved("momentum"), resolved("epochs")
    ('0.9', '12 for digits, else 30')
    >>> resolved("lr")
    '0.05 for digits, 0.3 for images of up to 64 pixels, else 0.025'
    """
    digits, small, photos = (_text(getattr(recipe, name)) for recipe in _usual())
    if digits == small == photos:
        return photos
    named = (
        [("digits", digits)] if small == photos else [("digits", digits), (f"images of up to {SMALL} pixels", small)]
    )
    return ", ".join([*(f"{value or 'none'} for {case}" for case, value in named), f"else {photos or 'none'}"])


@cache
def _usual() -> tuple[TrainConfig, ...]:
    return tuple(RECIPES[name]() for name in USUAL)


def _text(value: Any) -> str:
    """A value as its flag takes it; on for true, and nothing for none and false."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return {"None": "", "True": "on", "False": ""}.get(str(value), str(value))


def option(setting: Setting, default: str) -> Any:
    """The parameter type of a setting. The default is only shown in the help, because a recipe may have another value."""
    declared = flag(setting)
    if setting.kind is bool:
        declared += f"/--no-{declared[2:]}".replace("--no-no-", "--")
    kind = str if setting.kind is tuple else setting.kind
    shown = f"{setting.help} [{default}]" if default else setting.help
    return Annotated[kind | None, typer.Option(declared, help=shown)]


def with_flags(config: type[Config], function: Function, *, leave_out: Collection[str] = ()) -> Function:
    """Add a flag for each setting to `function`, which ends in ``**settings``; a flag that is not given is None."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)

    def shown(setting: Setting) -> str:
        return resolved(setting.name) if config is TrainConfig else _text(setting.default)

    own = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values() if p.name != "settings"]
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option(setting, shown(setting))
        )
        for name, setting in config.settings().items()
        if name not in leave_out
    ]
    function.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
    return function


with_train_flags = partial(with_flags, TrainConfig)


def settings_of(file: Path | None, flags: dict[str, Any]) -> dict[str, Any]:
    """The settings of the --config file, replaced by those of the flags."""
    from leanconv.experiment.settings import read_config

    return ({} if file is None else read_config(file)[0]) | given_flags(TrainConfig, flags)


def given_flags(config: type[Config], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given; a list is split at its commas, and its numbers are converted."""
    declared = config.settings()
    given = {name: value for name, value in settings.items() if value is not None}
    lists = {name for name in given if declared[name].kind is tuple}
    return given | {
        name: texts(given[name]) if declared[name].item is str else numbers(flag(declared[name]), given[name])
        for name in lists
    }


def texts(text: str) -> tuple[str, ...]:
    """``conv1.*,layer1.*`` as texts.

    >>> texts("conv1.*, layer1.*")
    ('conv1.*', 'layer1.*')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(flag: str, text: str) -> tuple[float, ...]:
    """``0.5,0.75`` as numbers; whole numbers become int.

    Raises:
        SettingError: the text is no list of numbers.

    >>> numbers("--milestones", "0.5,30")
    (0.5, 30)
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise SettingError(f"{flag} {text!r} must be numbers with commas between them: 0.5,0.75 or 30,60,90") from None
    return tuple(int(value) if value.is_integer() else value for value in values)


def device_of(asked: str) -> str:
    """The device that --device names on this machine."""
    from leanconv.core import machine

    return machine.device_of(asked)
