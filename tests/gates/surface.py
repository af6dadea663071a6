"""The names and flags that users rely on, as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = HERE / "public_names.txt"
FLAGS = HERE / "cli_flags.txt"


def public_names() -> str:
    """The public names of leanconv, one a line."""
    import leanconv

    return "".join(f"{name}\n" for name in sorted(leanconv.__all__))


def cli_flags() -> str:
    """Every verb with its arguments and flags: ``train --epochs``, one a line."""
    from typer.main import get_command

    from leanconv.cli import app

    command: Any = get_command(app)
    lines = [f"leanconv {_spelling(parameter)}" for parameter in command.params]
    verbs = dict(command.commands)
    while verbs:
        verb, subcommand = verbs.popitem()
        lines += [verb, *(f"{verb} {_spelling(parameter)}" for parameter in subcommand.params)]
        verbs |= {f"{verb} {name}": inner for name, inner in getattr(subcommand, "commands", {}).items()}
    return "".join(f"{line}\n" for line in sorted(lines))


def _spelling(parameter: Any) -> str:
    """Only what every typer knows: newer ones bring a click of their own."""
    if parameter.param_type_name == "argument":
        return parameter.name.upper() if parameter.required else f"[{parameter.name.upper()}]"
    return "/".join([*parameter.opts, *parameter.secondary_opts])
