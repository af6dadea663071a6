"""``leanconv doctor``: what is installed, what is missing, and whether the core works on this machine."""

from __future__ import annotations

from dataclasses import asdict

import typer

from leanconv.cli.options import Json
from leanconv.cli.output import show, show_json


def doctor(as_json: Json = False) -> None:
    """Show the machine, the versions and the extras, convert a small network with every method, and list problems.

    The exit code is 3 if there is a problem.
    """
    from leanconv.models.doctor import doctor as examine

    health = examine()
    if as_json:
        show_json(asdict(health))
    else:
        show(str(health))
    if health.problems:
        raise typer.Exit(3)
