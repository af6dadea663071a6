"""Flags that the verbs of `leanconv detect` share, and one for each setting of `DetectConfig`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from leanconv.cli.output import say
from leanconv.cli.train_flags import with_flags
from leanconv.detect.config import DetectConfig

if TYPE_CHECKING:
    from leanconv.data.problems import OnBad as BadPhotos
    from leanconv.detect import DetectionData
    from leanconv.detect.data.records import Part as PartName

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


def open_photos(
    folder: Path,
    on_bad: BadPhotos = "skip",
    parts: Sequence[PartName] = ("train", "val"),
    max_pixels: int | None = None,
) -> DetectionData:
    """`open_detection`, saying once what was left out."""
    from leanconv.data.encoded import MAX_PIXELS
    from leanconv.detect import open_detection

    data = open_detection(folder, on_bad, parts, MAX_PIXELS if max_pixels is None else max_pixels)
    for line in data.problems.lines():
        say(f"leanconv: left out: {line}")
    return data
