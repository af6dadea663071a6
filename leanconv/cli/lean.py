"""``leanconv lean``: from a trained network to a lean one under a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leanconv.budget.config import LeanConfig
from leanconv.budget.limits import Budget
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
    Target,
    TestSplit,
    Where,
)
from leanconv.cli.output import command_line, present, say
from leanconv.cli.train_flags import given_flags, with_flags

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


def lean(
    target: Target,
    out: Out,
    budgets: Budgets = None,
    max_drop: MaxDrop = None,
    data: Data = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    on_bad: OnBad = "refuse",
    max_pixels: MaxPixels = None,
    test_split: TestSplit = None,
    methods: Methods = None,
    where: Where = None,
    exclude: Exclude = None,
    include: Include = None,
    controls: Controls = "uniform,random",
    pretrained: Pretrained = False,
    recipe: Recipe = None,
    resume: Resume = False,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Make the trained network TARGET lean within a budget, and keep its accuracy.

    Each layer is tried with every method; the choice that changes the network's output least is converted, trained, measured
    and exported. DIR holds each stage, the lean network, summary.json and report.html.
    """
    from leanconv.budget.search import lean as search
    from leanconv.cli.images import open_images
    from leanconv.files.target import is_saved

    budget = Budget.of(",".join([*(budgets or []), *([] if max_drop is None else [f"max_drop={max_drop}"])]))
    own = target if is_saved(target) else None
    images = open_images(data, data_root, download, on_bad, max_pixels, test_split, run=own)
    try:
        found = search(
            target, images, budget, out, recipe, methods=methods or (), where=where or (), exclude=exclude or (),
            include=include, controls=[] if controls == "none" else controls.split(","), pretrained=pretrained, resume=resume,
            command=command_line(portable=True), **given_flags(LeanConfig, settings),
        )  # fmt: skip
    except KeyboardInterrupt:
        say(f"interrupted; add --resume to continue the search in {out}")
        raise
    present(found, None, as_json)


lean = with_flags(LeanConfig, lean)
