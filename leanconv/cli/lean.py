"""``leanconv lean``: from a trained network to a lean one under a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leanconv.budget.config import LeanConfig
from leanconv.cli.options import (
    Data,
    DataRoot,
    Download,
    Exclude,
    Include,
    Json,
    MaxPixels,
    OnBad,
    Pretrained,
    Report,
    Target,
    TestSplit,
    Where,
)
from leanconv.cli.output import command_line, present, say
from leanconv.cli.train_flags import given_flags, with_flags
from leanconv.core.errors import SettingError


def lean(
    target: Target,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the search and of the lean network.")
    ],
    budgets: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            metavar="LIMITS",
            help="time=0.5 or time=12ms; macs, params, bytes or memory; several by comma. At most 1: a part of dense.",
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop", min=0, help="The leanest network that loses at most these points of validation accuracy."
        ),
    ] = None,
    data: Data = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    on_bad: OnBad = "refuse",
    max_pixels: MaxPixels = None,
    test_split: TestSplit = None,
    methods: Annotated[
        list[str] | None, typer.Option("--methods", metavar="NAME", help="Try only these methods; may be repeated.")
    ] = None,
    where: Where = None,
    exclude: Exclude = None,
    include: Include = None,
    controls: Annotated[
        str, typer.Option("--controls", help="What the result is compared with, by comma: uniform, random; or none.")
    ] = "uniform,random",
    pretrained: Pretrained = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", help="Settings of the training; a tenth of its epochs. Default: those of TARGET's own run."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted search.")] = False,
    report: Report = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Make the trained network TARGET lean within a budget, and keep its accuracy.

    Each layer is tried with every method. A candidate's score is how much the network's output changes; the best choice
    within the budget is exact, then converted, trained, measured and exported. DIR holds each stage, the lean network,
    summary.json and report.html.
    """
    from leanconv.budget.search import lean as search
    from leanconv.cli.images import open_images
    from leanconv.files.target import is_saved

    limits = ",".join([*(budgets or []), *([f"max_drop={max_drop}"] if max_drop is not None else [])])
    if not limits:
        raise SettingError("no budget: give --budget time=0.5 (or macs, params, bytes, memory), or --max-drop 1.0")
    trained = target if is_saved(target) else None
    images = open_images(data, data_root, download, on_bad, max_pixels, test_split, run=trained)
    named = [] if controls == "none" else [name.strip() for name in controls.split(",")]
    try:
        found = search(
            target, images, limits, out, recipe, methods=methods or (), where=where or (), exclude=exclude or (),
            include=include, controls=named, pretrained=pretrained, resume=resume, command=command_line(portable=True),
            **given_flags(LeanConfig, settings),
        )  # fmt: skip
    except KeyboardInterrupt:
        say(f"interrupted; add --resume to continue the search in {out}")
        raise
    present(found, report, as_json)
    say(f"report: {out / 'report.html'}")


lean = with_flags(LeanConfig, lean)
