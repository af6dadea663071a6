"""``leanconv demo``: a network is trained on small real images and made lean, without preparation."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from leanconv.cli.options import Json
from leanconv.cli.output import say

TARGET = "fast_vgg(width=0.5)"
RECIPE = "digits_speed"
BUDGET = "time=0.5"
BATCH = 16
CONTROLS = "narrower"
METHODS = ["tied_block", "shared_basis", "split", "low_rank"]
MEASURE_MINUTES = 1.0
IMAGES = 64  # for fits and scores


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the results.")] = Path("runs/demo"),
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the train part.")] = None,
    as_json: Json = False,
) -> None:
    """Train a network on scikit-learn's handwritten digits, then make it twice as fast and compare, in about three minutes.

    The table compares the lean network with the dense one, and with a narrower network of the same speed that is trained from
    scratch.
    """
    from leanconv.cli.lean import lean
    from leanconv.cli.train import train

    runtime = "openvino" if find_spec("openvino") else "eager"
    dense = out / "dense"
    say(f"leanconv train {TARGET!r} --data digits --recipe {RECIPE} --out {dense}")
    train(TARGET, dense, recipe=RECIPE, epochs=epochs)
    methods = " ".join(f"--methods {name}" for name in METHODS)
    say(
        f"leanconv lean {dense} --data digits --budget {BUDGET} --runtime {runtime} --batch {BATCH} --controls {CONTROLS} "
        f"{methods} --narrowed 1 --images {IMAGES} --recovery-epochs 1 --measure-minutes {MEASURE_MINUTES} --out {out / 'lean'}"
    )
    lean(
        str(dense), out / "lean", [BUDGET], data="digits", runtime=runtime, batch=BATCH, controls=CONTROLS,
        methods=METHODS, narrowed=1, images=IMAGES, recovery_epochs=1, measure_minutes=MEASURE_MINUTES, as_json=as_json,
    )  # fmt: skip
