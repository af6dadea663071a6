"""The shared flags of the verbs of `leanconv detect`, and a flag for each setting of `DetectConfig`."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from leanconv.cli.output import say
from leanconv.cli.train_flags import with_flags
from leanconv.core.errors import SettingError
from leanconv.detect.config import DetectConfig

if TYPE_CHECKING:
    from leanconv.data.problems import OnBad as BadPhotos
    from leanconv.detect import DetectionData
    from leanconv.detect.data.records import Part as PartName

# settings of `RunConfig` that detectors do not use
UNUSED = ("patience", "pct_start", "div_factor", "final_div_factor", "validation", "distill_weight")

with_detect_flags = partial(with_flags, DetectConfig, leave_out=UNUSED)

OWN_FLAGS = {  # settings of `create_detector` that have a flag
    "layers": "--layers", "frozen": "--frozen-modules", "frozen_norms": "--frozen-norms", "norm_head": "--norm-head",
    "pyramid_channels": "--pyramid-channels", "anchor_sizes": "--anchor-sizes",
}  # fmt: skip

Photos = Annotated[
    Path,
    typer.Option(
        "--data", metavar="DIR", help="Photos with labelled objects: COCO's layout, Pascal VOC's or Cityscapes'."
    ),
]
OnBad = Annotated[
    Literal["skip", "refuse"],
    typer.Option(
        "--on-bad", help="For errors in the data: leave them out and count them, or stop and name all of them."
    ),
]
Part = Annotated[Literal["train", "val"], typer.Option("--part", help="The part of the data.")]
Runs = Annotated[list[str], typer.Argument(metavar="DIR...", help="Folders that leanconv detect train saved.")]
Backbone = Annotated[
    str,
    typer.Option("--backbone", metavar="TARGET", help="A network by name, or the folder of a saved network."),
]
Layers = Annotated[
    str | None,
    typer.Option("--layers", metavar="NAMES", help="Modules that give the feature maps, from stride 4 to 32: a,b,c,d."),
]
Frozen = Annotated[
    list[str] | None,
    typer.Option(
        "--frozen-modules", metavar="NAME", help="A module of the backbone that is not trained; may be repeated."
    ),
]
FrozenNorms = Annotated[
    bool, typer.Option("--frozen-norms", help="Freeze the statistics and weights of the batch norms in the backbone.")
]
PyramidChannels = Annotated[
    int, typer.Option("--pyramid-channels", min=1, help="Channels of the feature pyramid and of the heads on it.")
]
AnchorSizes = Annotated[
    str | None,
    typer.Option("--anchor-sizes", metavar="PIXELS", help="One size for each of five levels. [32,64,128,256,512]"),
]
NormHead = Annotated[
    bool, typer.Option("--norm-head", help="Add group norms to the head of RetinaNet, for training from scratch.")
]
Assigned = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of torchvision's detector; may be repeated."),
]


def open_photos(
    folder: Path,
    on_bad: BadPhotos = "skip",
    parts: Sequence[PartName] = ("train", "val"),
    max_pixels: int | None = None,
) -> DetectionData:
    """`open_detection`, with a line for the data that was left out."""
    from leanconv.data.encoded import MAX_PIXELS
    from leanconv.detect import open_detection

    data = open_detection(folder, on_bad, parts, MAX_PIXELS if max_pixels is None else max_pixels)
    for line in data.problems.lines():
        say(f"leanconv: left out: {line}")
    return data


def assigned(texts: list[str]) -> dict[str, Any]:
    """``box_score_thresh=0.1`` as a name and a plain value."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name in OWN_FLAGS:
            raise SettingError(f"--set {text!r}: this setting has its own flag; give {OWN_FLAGS[name]}")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            equals = ""
        if not equals:
            raise SettingError(f"--set {text!r} must be a name and a plain value: box_score_thresh=0.1")
    return found
