"""``leanconv detect predict``: boxes, masks, labels and scores drawn on photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanconv.cli.detect.flags import OnBad
from leanconv.cli.options import Json, MaxPixels
from leanconv.cli.output import say, show, show_json
from leanconv.cli.train_flags import Device, device_of

if TYPE_CHECKING:
    from torch import nn

    from leanconv.detect import Photo


def predict(
    run: Annotated[str, typer.Argument(metavar="DIR", help="A folder that leanconv detect train saved.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files, or folders of them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the drawn photos, as PNG.")
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", metavar="DIR", help="Another detector, drawn beside it; may be repeated."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Labels of these images: the truth is drawn too, and what is false."
        ),
    ] = None,
    score: Annotated[
        float, typer.Option("--score", min=0.0, max=1.0, help="Detections below this score are left out.")
    ] = 0.5,
    on_bad: OnBad = "skip",
    max_pixels: MaxPixels = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find objects in photos; with --compare side by side, with --data beside the truth, false positives marked.

    A detection is false when no labelled object of its class overlaps its box by half. An image that cannot be read is
    named, the others go on, and the exit code is 1.
    """
    from leanconv.core.errors import DataError, SettingError
    from leanconv.data.encoded import MAX_PIXELS
    from leanconv.deploy.images import files_of
    from leanconv.detect import load_detector
    from leanconv.detect.build import describe_detector

    if out is None and not as_json:
        raise SettingError("predict draws into a folder or prints JSON; give --out DIR or --json")
    names = [run, *(compare or [])]
    detectors = {name: load_detector(name).to(device_of(device)) for name in names}
    classes = tuple(describe_detector(detectors[run])["classes"])
    if any(tuple(describe_detector(d)["classes"]) != classes for d in detectors.values()):
        raise SettingError(f"{', '.join(names)} have different classes; compare detectors of the same data")
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    labelled = {} if data is None else _labelled(data, detectors[run], on_bad, limit)
    rows: list[dict[str, Any]] = []
    taken: set[Path] = set()
    for path in files_of(images):
        try:
            rows.append(_one(path, detectors, classes, labelled.get(path.resolve()), score, out, taken, limit))
        except DataError as error:
            rows.append({"image": str(path), "error": str(error)})
            say(f"leanconv: not read: {error}")
    if as_json:
        show_json({"detectors": names, "score": score, "images": rows})
    else:
        drawn = [row for row in rows if "error" not in row]
        without = [row["image"] for row in drawn if data is not None and not row["labelled"]]
        if without:
            say(f"leanconv: {len(without)} images have no labels in {data}, {without[0]} first")
        show(f"{len(drawn)} of {len(rows)} photos drawn in {out}")
    if any("error" in row for row in rows):
        raise typer.Exit(1)


def _labelled(folder: Path, detector: nn.Module, on_bad: Any, limit: int) -> dict[Path, Photo]:
    from leanconv.cli.detect.job import open_photos
    from leanconv.detect.classes import for_detector

    data = for_detector(detector, open_photos(folder, on_bad, max_pixels=limit))
    return {photo.path.resolve(): photo for photo in (*data.train, *data.val)}


def _one(
    path: Path, detectors: dict[str, nn.Module], classes: tuple[str, ...], photo: Photo | None, score: float,
    out: Path | None, taken: set[Path], limit: int,
) -> dict[str, Any]:  # fmt: skip
    import torch

    from leanconv.analyse.figure import save_figure
    from leanconv.detect import pictures
    from leanconv.detect.feed import read_file, read_image

    # as its annotations mean it, which may be as it is stored
    image = read_file(path, limit) if photo is None else read_image(photo)
    panels: dict[str, list[pictures.Drawn]] = {}
    found: dict[str, Any] = {}
    if photo is not None:
        panels["truth"] = pictures.truth_of(photo)
    for name, detector in detectors.items():
        with torch.inference_mode():
            drawn = pictures.drawn_of(detector([image.to(next(detector.parameters()).device)])[0], score)
        if photo is not None:
            drawn = pictures.marked(drawn, photo)
        panels[name] = drawn
        found[name] = [
            {"box": one.box, "label": pictures.name_of(one.label, classes), "score": one.score}
            | ({} if photo is None else {"false": one.mark == "false"})
            for one in drawn
        ]
    row: dict[str, Any] = {"image": str(path), "labelled": photo is not None, "found": found}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        file, number = out / f"{path.stem}.png", 1
        while file in taken:  # of another folder, or of another kind
            number += 1
            file = out / f"{path.stem}-{number}.png"
        taken.add(file)
        row["drawn"] = str(save_figure(pictures.draw(image, panels, classes), file))
    return row
