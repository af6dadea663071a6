"""``leanconv detect predict``: boxes, masks, labels and scores drawn on photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leanconv.cli.detect.flags import OnBad
from leanconv.cli.options import Json, MaxPixels
from leanconv.cli.output import say, show, show_json
from leanconv.cli.train_flags import Device


def predict(
    run: Annotated[str, typer.Argument(metavar="DIR", help="A folder that leanconv detect train saved.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files, or folders of them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the drawn photos, as PNG.")
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", metavar="DIR", help="Another detector, drawn beside the first; may be repeated."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Labels of these images: also draw the ground truth, and mark false detections.",
        ),
    ] = None,
    score: Annotated[
        float, typer.Option("--score", min=0.0, max=1.0, help="Leave out detections below this score.")
    ] = 0.5,
    on_bad: OnBad = "skip",
    max_pixels: MaxPixels = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find objects in photos. --compare adds other detectors; --data adds the ground truth and marks false positives.

    A detection is false if no labelled object of its class overlaps its box by half. If an image cannot be read, the
    command names it, continues with the others, and exits with 1.
    """
    from leanconv.cli.detect.flags import open_photos
    from leanconv.core.errors import SettingError
    from leanconv.core.machine import device_of
    from leanconv.data.encoded import MAX_PIXELS
    from leanconv.detect import load_detector
    from leanconv.detect import predict as find

    if out is None and not as_json:
        raise SettingError("predict draws into a folder or prints JSON; give --out DIR or --json")
    detectors = {name: load_detector(name).to(device_of(device)) for name in (run, *(compare or ()))}
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    truth = None if data is None else open_photos(data, on_bad, max_pixels=limit)
    found = []
    for one in find(detectors, images, data=truth, score=score, out=out, max_pixels=limit):
        found.append(one)
        if one.error is not None:
            say(f"leanconv: not read: {one.error}")
    seen = [one for one in found if one.error is None]
    if as_json:
        show_json({"detectors": [*detectors], "score": score, "images": [one.to_json() for one in found]})
    else:
        without = [one.image for one in seen if data is not None and not one.labelled]
        if without:
            say(f"leanconv: {len(without)} images have no labels in {data}, {without[0]} first")
        show(f"{len(seen)} of {len(found)} photos drawn in {out}")
    if len(seen) < len(found):
        raise typer.Exit(1)
