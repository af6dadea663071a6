"""Pascal VOC: one xml file an image."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from leanconv.core.errors import DataError
from leanconv.detect.data.records import Instance, Photo, Problems, checked, encode

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOID = 255  # of the borders in SegmentationObject


def names_of(root: Path, part: str, masks: bool) -> list[str]:
    """The images that ImageSets lists for a part."""
    folder = root / "ImageSets" / ("Segmentation" if masks else "Main")
    file = folder / f"{part}.txt"
    try:
        return [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: {getattr(error, 'strerror', None) or 'not a text file'}; fetch it again") from error


def classes_of(root: Path, names: list[str]) -> tuple[str, ...]:
    """VOC's twenty where they cover what is there, else what is there by name."""
    found: set[str] = set()
    for name in names:
        try:
            found |= {node.text or "" for node in ElementTree.parse(_xml(root, name)).iterfind("object/name")}
        except (OSError, ElementTree.ParseError):
            continue  # noted where the file is read
    return CLASSES if found <= set(CLASSES) else tuple(sorted(found))


def read_voc(
    root: Path, names: list[str], classes: tuple[str, ...], problems: Problems, masks: bool
) -> tuple[Photo, ...]:
    """The photos of the names. A "difficult" object counts as a crowd: not trained on, not counted as missed.

    VOC's corners are counted from 1 and lie inside the object: x1 - 1 is its left edge here, and x2 its right one.
    """
    labels = {name: label for label, name in enumerate(classes, start=1)}
    photos = []
    for number, name in enumerate(names, start=1):
        file = _xml(root, name)
        try:
            tree = ElementTree.parse(file).getroot()
            width, height = (int(tree.findtext(f"size/{side}") or "") for side in ("width", "height"))
        except (OSError, ElementTree.ParseError, ValueError) as error:
            problems.add("xml file that cannot be read", f"{file.name} ({str(error)[:60]})")
            continue
        path = root / "JPEGImages" / (tree.findtext("filename") or f"{name}.jpg")
        if not path.is_file():
            path = root / "JPEGImages" / f"{name}.jpg"
        if not path.is_file():
            problems.add("image file that is not there", path.name)
            continue
        drawn = _drawn(root, name, (height, width), problems) if masks else None
        instances: list[Instance] = []
        for place, node in enumerate(tree.iterfind("object"), start=1):
            where = f"{file.name}, object {place}"
            label = labels.get(node.findtext("name") or "")
            if label is None:
                problems.add("annotation of an unknown category", where)
                continue
            try:
                x1, y1, x2, y2 = (
                    float(node.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")
                )
            except ValueError:
                problems.add("box that is not of numbers", where)
                continue
            mask = None if drawn is None else drawn == place
            if mask is not None and not mask.any():
                problems.add("object without a pixel in its mask", where)
                continue
            instances += checked(
                (x1 - 1, y1 - 1, x2, y2), label, height, width, problems, where,
                area=None if mask is None else float(mask.sum()), segmentation=None if mask is None else encode(mask),
                crowd=node.findtext("difficult") == "1",
            )  # fmt: skip
        photos.append(Photo(number, path, height, width, tuple(instances)))
    return tuple(photos)


def _xml(root: Path, name: str) -> Path:
    return root / "Annotations" / f"{name}.xml"


def _drawn(root: Path, name: str, size: tuple[int, int], problems: Problems) -> np.ndarray | None:
    """Which object each pixel belongs to: its place in the xml file, 0 none."""
    file = root / "SegmentationObject" / f"{name}.png"
    try:
        with Image.open(file) as image:
            pixels = np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        problems.add("mask file that cannot be read", f"{file.name} ({str(error)[:60]})")
        return np.zeros(size, dtype=np.uint8)
    if pixels.shape != size:
        problems.add("mask file of another size than its image", file.name)
        return np.zeros(size, dtype=np.uint8)
    return np.where(pixels == VOID, 0, pixels)
