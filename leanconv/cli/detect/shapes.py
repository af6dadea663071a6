"""``leanconv detect shapes``: draw photos to try detectors with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leanconv.cli.options import Seed
from leanconv.cli.output import show


def shapes(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the photos and their labels.")],
    train: Annotated[int, typer.Option("--train", min=1, help="Photos to train on.")] = 64,
    val: Annotated[int, typer.Option("--val", min=1, help="Photos to evaluate on.")] = 32,
    seed: Seed = 0,
) -> None:
    """Draw small photos of discs, squares and triangles that hide each other, labelled in COCO's layout.

    With these photos you can try every verb without a data set. A detector learns them in minutes on a CPU.
    """
    from leanconv.detect import write_shapes

    write_shapes(out, train, val, seed=seed)
    show(f"{train} and {val} photos written in {out}")
