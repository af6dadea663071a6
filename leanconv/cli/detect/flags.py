"""Flags that the verbs of `leanconv detect` share, and one for each setting of `DetectConfig`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from leanconv.cli.train_flags import with_flags
from leanconv.detect.config import DetectConfig

# of `RunConfig`, and without a meaning here
UNUSED = ("patience", "pct_start", "div_factor", "final_div_factor", "validation")

with_detect_flags = partial(with_flags, DetectConfig, leave_out=UNUSED)

Photos = Annotated[
    Path,
    typer.Option(
        "--data", metavar="DIR", help="Photos with labelled objects: COCO's layout, Pascal VOC's or Cityscapes'."
    ),
]
OnBad = Annotated[
    Literal["skip", "refuse"],
    typer.Option("--on-bad", help="What is wrong in the data: leave it out and count it, or stop, naming all of it."),
]
Part = Annotated[Literal["train", "val"], typer.Option("--part", help="Which part of the data.")]
Runs = Annotated[list[str], typer.Argument(metavar="DIR...", help="Folders that leanconv detect train saved.")]
