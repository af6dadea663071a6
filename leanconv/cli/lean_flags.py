"""The flags of `leanconv lean`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
