"""``leanconv detect eval``: average precision, overall and under occlusion."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from leanconv.cli.detect.flags import OnBad, Part, Photos, Runs
from leanconv.cli.options import Json, MaxPixels, Report
from leanconv.cli.output import command_line, present, say
from leanconv.cli.train_flags import Device, numbers


def evaluate(
    runs: Runs,
    data: Photos,
    part: Part = "val",
    occlusion: Annotated[
        Literal["masks", "boxes", "none"] | None,
        typer.Option(
            "--occlusion",
            help="Measure overlap by masks or boxes. COCO's masks show only what is visible and hide occlusion: take boxes "
            "there. Default: masks, if the data has masks that overlap.",
        ),
    ] = None,
    edges: Annotated[
        str | None,
        typer.Option(
            "--edges", metavar="RATIOS", help="The lower edges of the bins of the occlusion ratio. [0,0.1,...,0.8]"
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option("--precision", help="The dtype of the computation.")
    ] = "fp32",
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")] = None,
    on_bad: OnBad = "skip",
    max_pixels: MaxPixels = None,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """COCO's average precision and recall of detectors, on all photos and by the occlusion ratio of the photos.

    Occlusion ratio of a photo: the share of the area of its instances that another instance covers too.
    """
    from leanconv.cli.detect.flags import open_photos
    from leanconv.detect import evaluate as score
    from leanconv.detect.scoring import EDGES

    cut = EDGES if edges is None else numbers("--edges", edges)
    found = score(
        runs, open_photos(data, on_bad, (part,), max_pixels), part, by=occlusion, edges=cut, precision=precision,
        device=device, threads=threads, tell=say, together=True, command=command_line(),
    )  # fmt: skip
    present(found, report, as_json)
