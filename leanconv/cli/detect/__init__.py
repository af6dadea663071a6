"""``leanconv detect``: detectors on dense and lean backbones."""

from __future__ import annotations

from collections.abc import Callable

import typer

from leanconv.cli.detect.evaluate import evaluate
from leanconv.cli.detect.predict import predict
from leanconv.cli.detect.shapes import shapes
from leanconv.cli.detect.train import train
from leanconv.core.processes import leads

DETECT_VERBS: dict[str, tuple[Callable[..., None], str]] = {
    "shapes": (shapes, "shapes -o shapes/"),
    "train": (
        train,
        "train mask_rcnn --backbone timm/resnet50 --method split --where '*conv2' --data photos/ -o runs/split",
    ),
    "eval": (evaluate, "eval runs/dense runs/split --data photos/ --occlusion masks --report page.html"),
    "predict": (predict, "predict runs/split photos/val --compare runs/dense --data photos/ -o drawn/"),
}

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
for verb, (function, example) in DETECT_VERBS.items():
    app.command(verb, epilog=f"Example: leanconv detect {example}")(function)


@app.callback()
def _common(context: typer.Context) -> None:
    if not (context.invoked_subcommand in ("train", "eval") or leads()):
        raise typer.Exit  # as in the other verbs that do not train
