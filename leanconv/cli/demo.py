"""``leanconv demo``: a comparison on small real images, without preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leanconv.cli.options import Json
from leanconv.cli.output import say

TARGET = "resnet20"
METHODS = "dense,tied_block(blocks=2),split(ratio=0.5),shared_basis,depth_shared"


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the results.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each method.")] = 2,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the train part.")] = None,
    as_json: Json = False,
) -> None:
    """Compare four methods with a dense ResNet-20 on scikit-learn's handwritten digits, in a few minutes on two cores."""
    from leanconv.cli.compare import compare

    say(f"leanconv compare {TARGET} --methods {METHODS!r} --data digits --seeds {seeds} --out {out}")
    # One thread: the images are too small for several, and threads that wait for each other are slow on a busy machine
    compare([TARGET], METHODS, data="digits", seeds=seeds, out=out, epochs=epochs, threads=1, as_json=as_json)
