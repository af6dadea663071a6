"""The flags of `leanconv lean`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from leanconv.core.errors import SettingError

Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the search and of the lean network.")]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget", metavar="LIMITS",
        help="time=0.5 or time=12ms; macs, params, bytes or memory; several by comma. At most 1: a part of dense.",
    ),
]  # fmt: skip
MaxDrop = Annotated[
    float | None,
    typer.Option("--max-drop", min=0, help="The leanest network that loses at most these points of accuracy."),
]
Methods = Annotated[
    list[str] | None, typer.Option("--methods", metavar="NAME", help="Try only these; may be repeated.")
]
Controls = Annotated[
    str, typer.Option("--controls", help="By comma: uniform, random, pruned, pruned_random, narrower; or none.")
]
Recipe = Annotated[
    str | None,
    typer.Option("--recipe", help="Settings of the training, for a tenth of its epochs. Default: of TARGET's run."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted search.")]
Pyramid = Annotated[bool, typer.Option("--pyramid", help="Of a detector: make the feature pyramid lean too.")]


def refuse_for_detector(target: str, given: Mapping[str, Any]) -> None:
    """Raise SettingError if a flag that is for classifiers was given with a detector."""
    unused = next((name for name, value in given.items() if value), None)
    if unused is not None:
        flag = f"--{unused.replace('_', '-')}"
        raise SettingError(f"{target} holds a detector, and {flag} is for classifiers; leave it out")
