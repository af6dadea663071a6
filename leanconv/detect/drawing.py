"""What detectors find in photos: as values, and drawn side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.analyse.figure import save_figure
from leanconv.core.errors import DataError, SettingError
from leanconv.data.encoded import MAX_PIXELS
from leanconv.deploy.images import files_of
from leanconv.detect import pictures
from leanconv.detect.classes import for_detector
from leanconv.detect.data import DetectionData, Photo
from leanconv.detect.detector import describe_detector
from leanconv.detect.feed import read_file, read_image

TRUTH = "truth"  # the title of what is labelled, beside the detectors


@dataclass(frozen=True)
class Found:
    """What detectors found in one photo.

    Args:
        found: by detector: box, label and score of each detection, and whether it is false where the truth is known.
        labelled: whether the truth is known.
        drawn: the picture, where one was drawn.
        error: why the photo could not be read; None otherwise.
    """

    image: Path
    found: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    labelled: bool = False
    drawn: Path | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        if self.error is not None:
            return {"image": str(self.image), "error": self.error}
        more = {} if self.drawn is None else {"drawn": str(self.drawn)}
        return {"image": str(self.image), "labelled": self.labelled, "found": self.found, **more}


def predict(
    detectors: Mapping[str, nn.Module],
    images: Sequence[Path],
    *,
    data: DetectionData | None = None,
    score: float = 0.5,
    out: Path | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Found]:
    """What each detector finds in each photo, one photo at a time.

    A detection is false when no labelled object of its class overlaps its box by half. A photo that cannot be read does not
    stop the others.

    Args:
        detectors: by name, in eval mode; all of the same classes.
        images: files, or folders of them.
        data: labels of these photos.
        score: detections below it are left out.
        out: folder of the drawn photos, as PNG: the truth first, then each detector.

    Raises:
        SettingError: the detectors have different classes, one is named "truth" beside the truth of `data`, or a picture in
            `out` would replace a photo.
        DataError: there is no such file.
    """
    first = next(iter(detectors.values()))
    classes = tuple(describe_detector(first)["classes"])
    if any(tuple(describe_detector(other)["classes"]) != classes for other in detectors.values()):
        raise SettingError(f"{', '.join(detectors)} have different classes; compare detectors of the same data")
    if data is not None and TRUTH in detectors:
        raise SettingError(
            f"a detector is named {TRUTH}, as the ground truth beside it; rename it, a folder as ./{TRUTH}"
        )
    own = None if data is None else for_detector(first, data)
    labelled = {} if own is None else {photo.path.resolve(): photo for photo in (*own.train, *own.val)}
    paths = files_of(images)
    files = [None] * len(paths) if out is None else _files(out.expanduser(), paths, labelled)
    for path, file in zip(paths, files, strict=True):
        photo = labelled.get(path.resolve())
        try:
            # as its annotations mean it, which may be as it is stored
            image = read_file(path, max_pixels) if photo is None else read_image(photo)
        except DataError as error:
            yield Found(path, error=str(error))
            continue
        panels = _panels(image, detectors, photo, score)
        found = {name: _values(panels[name], classes, photo is not None) for name in detectors}
        drawn = None if file is None else save_figure(pictures.draw(image, panels, classes), file)
        yield Found(path, found, photo is not None, drawn)


def _panels(
    image: Tensor, detectors: Mapping[str, nn.Module], photo: Photo | None, score: float
) -> dict[str, list[pictures.Drawn]]:
    """What is drawn side by side: the truth where it is known, then what each detector found."""
    panels = {} if photo is None else {TRUTH: pictures.truth_of(photo)}
    for name, detector in detectors.items():
        with torch.inference_mode():
            found = pictures.drawn_of(detector([image.to(next(detector.parameters()).device)])[0], score)
        panels[name] = found if photo is None else pictures.marked(found, photo)
    return panels


def _values(drawn: Sequence[pictures.Drawn], classes: Sequence[str], labelled: bool) -> list[dict[str, Any]]:
    return [
        {"box": one.box, "label": pictures.name_of(one.label, classes), "score": one.score}
        | ({"false": one.mark == "false"} if labelled else {})
        for one in drawn
    ]


def _files(folder: Path, photos: Sequence[Path], labelled: Collection[Path]) -> list[Path]:
    """A file for the picture of each photo, numbered where another folder or kind has a photo of the same name.

    Raises:
        SettingError: a file is one of the photos, which its picture would replace.
    """
    folder.mkdir(parents=True, exist_ok=True)
    originals = {photo.resolve() for photo in photos}
    found: dict[Path, None] = {}
    for photo in photos:
        file, number = folder / f"{photo.stem}.png", 1
        while file in found:
            number += 1
            file = folder / f"{photo.stem}-{number}.png"
        if (there := file.resolve()) in originals or there in labelled:
            raise SettingError(f"the picture {file} would replace a photo; give another folder with --out (out=)")
        found[file] = None
    return list(found)
