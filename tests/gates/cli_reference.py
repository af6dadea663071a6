"""The reference of the command line, docs/reference/cli.md, written from the commands themselves."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from tests.gates import tree

PATH: Path = tree.ROOT / "docs" / "reference" / "cli.md"
HEAD = """# Command line

Written from the commands by `python -m tests.gates.update`. Reading commands print data on standard output with `--json`. Exit
codes: 0 ok, 1 a run failed, 2 bad input, 3 a check was not met, 130 interrupted.
"""


def cli_reference() -> str:
    """Every command with its help, its example, its arguments and its flags."""
    from typer.main import get_command

    from leanconv.cli import app

    command: Any = get_command(app)
    return HEAD + "".join(_sections(command, "leanconv"))


def _sections(command: Any, name: str) -> list[str]:
    found = []
    for verb, inner in sorted(command.commands.items()):
        if hasattr(inner, "commands"):
            found += _sections(inner, f"{name} {verb}")
        else:
            found.append(_section(inner, f"{name} {verb}"))
    return found


def _section(command: Any, name: str) -> str:
    lines = [f"\n## {name}\n", inspect.cleandoc(command.help or ""), ""]
    example = (command.epilog or "").removeprefix("Example: ")
    if example:
        lines += ["```", example, "```", ""]
    lines += ["| | |", "| --- | --- |"]
    lines += [f"| `{_spelling(parameter)}` | {_cell(parameter.help or '')} |" for parameter in command.params]
    return "\n".join(lines) + "\n"


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return parameter.metavar or parameter.name.upper()
    return " / ".join([*parameter.opts, *parameter.secondary_opts])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")
