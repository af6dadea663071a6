"""``--config FILE``: flags from a file; flags on the command line replace the flags of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leanconv.core.errors import SettingError


def read(context: typer.Context, path: Path | None) -> Path | None:
    """Use the flags in a configuration file as defaults of this command; training settings are read later.

    Raises:
        FileError: the file cannot be read.
        SettingError: a key is no flag, or a flag refuses its value.
    """
    if path is None:
        return None
    from leanconv.experiment.settings import check_keys, read_config

    _, flags = read_config(path)
    own = {parameter.name: parameter for parameter in context.command.params if parameter.name not in (None, "config")}
    check_keys(path, flags, own)
    context.default_map = {
        name: _checked(path, context, own[name], value) for name, value in flags.items() if value is not None
    }
    return path


def _checked(path: Path, context: typer.Context, flag: Any, value: Any) -> Any:
    """`value`, if the flag accepts it; otherwise raise SettingError."""
    several = getattr(flag, "multiple", False) or flag.nargs == -1
    try:
        if getattr(flag, "is_flag", False):
            _need(isinstance(value, bool), "true or false")
        elif several:
            _need(isinstance(value, list), "a list")
        else:
            _need(not isinstance(value, bool | list | dict), "one value, a text or a number")
        flag.process_value(context, value)
    except Exception as error:  # an error of click, which newer versions of typer include as their own module
        said = getattr(error, "message", None) or str(error)
        raise SettingError(f"{path}: {flag.name}={value!r} does not fit: {said.rstrip('.')}") from None
    return value


def _need(fits: bool, kind: str) -> None:
    if not fits:
        raise ValueError(f"it must be {kind}")


Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", is_eager=True, callback=read,
        help="Flags from a YAML file, such as config.yaml of a run; flags typed here have priority.",
    ),
]  # fmt: skip
