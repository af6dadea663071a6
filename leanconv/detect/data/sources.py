"""Which format a folder has, and its parts read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from leanconv.core.errors import DataError
from leanconv.detect.data import cityscapes, voc
from leanconv.detect.data.coco import Categories, read_coco
from leanconv.detect.data.records import DetectionData, OnBad, Part, Photo, Problems

LAYOUTS = """annotations/instances_train*.json and instances_val*.json with images in train*/ and val*/ (COCO); \
train/_annotations.coco.json and valid/ likewise; Annotations/, JPEGImages/ and ImageSets/ (Pascal VOC); \
leftImg8bit/ and gtFine/ (Cityscapes)"""
PARTS: tuple[Part, ...] = ("train", "val")
ALSO = {"train": ("train",), "val": ("val", "valid", "validation", "test")}  # names of the parts in folders


def open_detection(
    folder: str | os.PathLike[str], on_bad: OnBad = "skip", parts: Sequence[Part] = PARTS
) -> DetectionData:
    """Photos with their objects from a folder in one of the usual layouts.

    - COCO: ``annotations/instances_train*.json`` and ``instances_val*.json``, the images in ``train*/``, ``val*/`` or
      ``images/``; or ``train/_annotations.coco.json`` and ``valid/_annotations.coco.json`` among their images.
    - Pascal VOC: ``ImageSets/Main/{train,val}.txt``; with ``SegmentationObject/``, those of ``ImageSets/Segmentation``.
    - Cityscapes: ``leftImg8bit/{train,val}`` and ``gtFine/{train,val}``.

    Args:
        on_bad: what is wrong (no file, an unknown category, a box outside its image, ...) is left out, named and counted
            in ``problems``, or refused.
        parts: which of "train" and "val" to read.

    Raises:
        DataError: no such folder, none of the layouts, or nothing in it that can be used.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give one that holds {LAYOUTS}")
    problems = Problems(on_bad)
    name = root.resolve().name
    if (root / "leftImg8bit").is_dir():
        train, val = (cityscapes.read_cityscapes(root, part, problems) if part in parts else () for part in PARTS)
        return DetectionData(name, cityscapes.CLASSES, tuple(cityscapes.THINGS), train, val, True, problems, False)
    if (root / "Annotations").is_dir() and (root / "ImageSets").is_dir():
        masks = (root / "SegmentationObject").is_dir()
        names = {part: voc.names_of(root, part, masks) for part in PARTS}
        classes = voc.classes_of(root, names["train"] + names["val"])
        train, val = (
            voc.read_voc(root, names[part], classes, problems, masks) if part in parts else () for part in PARTS
        )
        return DetectionData(name, classes, tuple(range(1, len(classes) + 1)), train, val, masks, problems, False)
    files = {part: _coco_file(root, part) if part in parts else None for part in PARTS}
    if not any(files.values()):
        raise DataError(f"{root}: none of the layouts that are known; it needs {LAYOUTS}")
    return _coco(name, root, files, problems)


def _coco(name: str, root: Path, files: dict[str, Path | None], problems: Problems) -> DetectionData:
    photos: dict[str, tuple[Photo, ...]] = dict.fromkeys(PARTS, ())
    all_categories: dict[str, Categories] = {}
    has_masks = True
    for part, file in files.items():
        if file is not None:
            all_categories[part], photos[part], masks = read_coco(file, _image_folders(root, part, file), problems)
            has_masks = has_masks and masks
    kinds = list(all_categories.values())
    if any(kind != kinds[0] for kind in kinds):
        different = sorted(set(kinds[0]) ^ set(kinds[1]))[0]
        raise DataError(f"{name}: train and val have different categories, {different} first; list the same in both")
    numbers, classes = zip(*kinds[0], strict=True) if kinds[0] else ((), ())
    return DetectionData(name, classes, numbers, photos["train"], photos["val"], has_masks, problems)


def _coco_file(root: Path, part: str) -> Path | None:
    patterns = [f"annotations/instances_{name}*.json" for name in ALSO[part]]
    patterns += [f"annotations/{name}*.json" for name in ALSO[part]]
    patterns += [f"{name}/_annotations.coco.json" for name in ALSO[part]]
    for pattern in patterns:
        found = sorted(root.glob(pattern))
        if len(found) > 1:
            raise DataError(f"{root}: several files for {part}: {', '.join(f.name for f in found)}; leave one")
        if found:
            return found[0]
    return None


def _image_folders(root: Path, part: str, file: Path) -> list[Path]:
    """Where the images of a part may lie, the likeliest first."""
    own = root / file.stem.removeprefix("instances_")  # train2017 of instances_train2017.json
    named = [folder for name in ALSO[part] for folder in (root / name, root / "images" / name)]
    return [file.parent, own, root / "images" / own.name, *named, root / "images", root]
