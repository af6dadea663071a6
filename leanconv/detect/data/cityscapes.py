"""Cityscapes' fine annotations: one image of instance numbers a photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from leanconv.detect.data.records import Instance, Photo, Problems, checked, encode

# its own numbers of the classes that have instances
THINGS = {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
CLASSES = tuple(THINGS.values())
LABELS = {number: label for label, number in enumerate(THINGS, start=1)}


def read_cityscapes(root: Path, part: str, problems: Problems) -> tuple[Photo, ...]:
    """leftImg8bit/PART/CITY/*_leftImg8bit.png with gtFine/PART/CITY/*_gtFine_instanceIds.png.

    A pixel is 1000 times the class's number plus the instance's; a class's number alone is a group, which counts as a crowd.
    """
    photos = []
    for number, path in enumerate(sorted((root / "leftImg8bit" / part).glob("*/*_leftImg8bit.png")), start=1):
        stem = path.name.removesuffix("_leftImg8bit.png")
        file = root / "gtFine" / part / path.parent.name / f"{stem}_gtFine_instanceIds.png"
        try:
            with Image.open(file) as image:
                pixels = np.array(image)
        except (OSError, SyntaxError, ValueError) as error:
            problems.add("annotation file that cannot be read", f"{file.name} ({str(error)[:60]})")
            continue
        height, width = pixels.shape[:2]
        photos.append(Photo(number, path, height, width, tuple(_instances(pixels, file.name, problems))))
    return tuple(photos)


def _instances(pixels: np.ndarray, name: str, problems: Problems) -> list[Instance]:
    height, width = pixels.shape
    found: list[Instance] = []
    for number in np.unique(pixels).tolist():
        kind, crowd = (number // 1000, False) if number >= 1000 else (number, True)
        if kind not in LABELS:
            continue
        mask = pixels == number
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        found += checked(
            box, LABELS[kind], height, width, problems, f"{name}, instance {number}", area=float(mask.sum()),
            segmentation=encode(mask), crowd=crowd,
        )  # fmt: skip
    return found
