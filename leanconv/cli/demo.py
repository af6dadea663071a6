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
CONTROLS = "uniform,narrower"
MEASURE_MINUTES = 0.5


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the results.")] = Path("runs/demo"),
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the train part.")] = None,
    as_json: Json = False,
) -> None:
    """Train a network on scikit-learn's handwritten digits, then make it twice as fast and compare, in four minutes.

    The table compares the lean network with the dense one and with other networks of the same speed: one method in all
    layers, and a narrower network that is trained from scratch.
    """
    from leanconv.cli.lean import lean
    from leanconv.cli.train import train

    runtime = "openvino" if find_spec("openvino") else "eager"
    dense = out / "dense"
    say(f"leanconv train {TARGET!r} --data digits --recipe {RECIPE} --out {dense}")
    train(TARGET, dense, recipe=RECIPE, epochs=epochs)
    say(
        f"leanconv lean {dense} --data digits --budget {BUDGET} --runtime {runtime} --batch {BATCH} --controls {CONTROLS} "
        f"--recovery-epochs 1 --measure-minutes {MEASURE_MINUTES} --out {out / 'lean'}"
    )
    lean(
        str(dense), out / "lean", [BUDGET], data="digits", runtime=runtime, batch=BATCH, controls=CONTROLS,
        recovery_epochs=1, measure_minutes=MEASURE_MINUTES, as_json=as_json,
    )  # fmt: skip
