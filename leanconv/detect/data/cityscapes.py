"""Read Cityscapes' fine annotations: for each photo, one image of instance numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leanconv.core.errors import DataError
from leanconv.data.encoded import MAX_PIXELS, decode_values, size_of
from leanconv.data.problems import Problems
from leanconv.data.text import read_bytes
from leanconv.detect.data.records import Instance, Photo, checked

# Cityscapes' numbers of the classes that have instances
THINGS = {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
CLASSES = tuple(THINGS.values())
LABELS = {number: label for label, number in enumerate(THINGS, start=1)}


def read_cityscapes(root: Path, part: str, problems: Problems, max_pixels: int = MAX_PIXELS) -> tuple[Photo, ...]:
    """The photos leftImg8bit/PART/CITY/*_leftImg8bit.png with gtFine/PART/CITY/*_gtFine_instanceIds.png.

    The value of a pixel is 1000 * class number + instance number. A class number alone marks a group, which counts as a crowd.

    Args:
        root: the folder with leftImg8bit and gtFine.
        part: "train" or "val".
        problems: collects what is wrong.
        max_pixels: an image with more pixels is left out.
    """
    photos = []
    way_out = "restore or drop this image"
    for number, path in enumerate(sorted((root / "leftImg8bit" / part).glob("*/[!.]*_leftImg8bit.png")), start=1):
        stem = path.name.removesuffix("_leftImg8bit.png")
        file = root / "gtFine" / part / path.parent.name / f"{stem}_gtFine_instanceIds.png"
        try:
            stored, _ = size_of(path, max_pixels)
        except DataError as error:
            problems.add("image that cannot be read", str(error).rsplit("; ", 1)[0])
            continue
        try:
            pixels = decode_values(read_bytes(file, way_out), file.name, max_pixels)
        except DataError as error:
            problems.add("annotation file that cannot be read", str(error).rsplit("; ", 1)[0])
            continue
        if pixels.shape != stored:
            problems.add("annotation file of another size than its image", file.name)
            continue
        photos.append(Photo(number, path, *stored, instances_of(pixels, file.name, problems)))
    return tuple(photos)


def instances_of(pixels: np.ndarray, name: str, problems: Problems) -> tuple[Instance, ...]:
    """The objects in an image of instance numbers, integers (H, W).

    Args:
        pixels: see `read_cityscapes`.
        name: what a note in `problems` calls the image.
        problems: collects what is wrong.
    """
    return tuple(_instances(pixels, name, problems))


def _instances(pixels: np.ndarray, name: str, problems: Problems) -> list[Instance]:
    height, width = pixels.shape
    flat = pixels.T.reshape(-1)  # column by column, as in COCO's run-length codes
    edges = np.flatnonzero(np.diff(flat)) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [flat.size]])
    numbers = flat[starts]
    found: list[Instance] = []
    for number in np.unique(numbers).tolist():
        kind, crowd = (number // 1000, False) if number >= 1000 else (number, True)
        if kind not in LABELS:
            continue
        mine = numbers == number
        begin, end = starts[mine], ends[mine]
        # alternating gaps and runs, from the first pixel of the photo to the last
        counts = np.diff(np.stack([begin, end], 1).reshape(-1), prepend=0, append=flat.size).tolist()
        wraps = bool(((end - 1) // height > begin // height).any())  # a run continues at the top of the next column
        top, bottom = (0, height) if wraps else (int((begin % height).min()), int(((end - 1) % height).max()) + 1)
        box = (float(begin.min() // height), float(top), float((end.max() - 1) // height + 1), float(bottom))
        found += checked(
            box, LABELS[kind], height, width, problems, f"{name}, instance {number}", area=float((end - begin).sum()),
            segmentation={"size": [height, width], "counts": counts}, crowd=crowd,
        )  # fmt: skip
    return found
