"""Open a detection data set: find its format, and read its parts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from leanconv.core.errors import DataError
from leanconv.core.settings import check_int
from leanconv.data.encoded import MAX_PIXELS
from leanconv.data.problems import OnBad, Problems
from leanconv.data.text import read_bytes
from leanconv.detect.data import cityscapes, voc
from leanconv.detect.data.coco import categories_of, parse_coco, photos_of
from leanconv.detect.data.find import Finder
from leanconv.detect.data.records import DetectionData, Part, Photo

LAYOUTS = """annotations/instances_train*.json and instances_val*.json with images in train*/ and val*/ (COCO); \
train/_annotations.coco.json and valid/ likewise; Annotations/, JPEGImages/ and ImageSets/ (Pascal VOC); \
leftImg8bit/ and gtFine/ (Cityscapes)"""
PARTS: tuple[Part, ...] = ("train", "val")
ALSO = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}  # names of the parts in folders


def open_detection(
    folder: str | os.PathLike[str], on_bad: OnBad = "skip", parts: Sequence[Part] = PARTS,
    max_pixels: int = MAX_PIXELS,
) -> DetectionData:  # fmt: skip
    """Open a folder of photos with labelled objects, in one of the usual layouts.

    - COCO: ``annotations/instances_train*.json`` and ``instances_val*.json``, the images in ``train*/``, ``val*/`` or
      ``images/``; or ``train/_annotations.coco.json`` and ``valid/_annotations.coco.json`` among their images.
    - Pascal VOC: ``ImageSets/Main/{train,val}.txt``; with ``SegmentationObject/``, those of ``ImageSets/Segmentation``.
    - Cityscapes: ``leftImg8bit/{train,val}`` and ``gtFine/{train,val}``.

    Paths that another machine wrote are searched inside the folder. Nothing outside the folder is read, except through links
    inside the folder.

    >>> import tempfile
    >>> from leanconv.detect import write_shapes
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = open_detection(write_shapes(folder, train=2, val=1))
    >>> data.classes, len(data.train), len(data.val)
    (('disc', 'square', 'triangle'), 2, 1)

    Args:
        folder: see above.
        on_bad: what happens with errors (a missing file, an unknown category, a box outside its image, ...). "skip" leaves
            them out and counts them in ``problems``; "refuse" raises one error that names all of them.
        parts: which of "train" and "val" to read.
        max_pixels: an image with more pixels is left out.

    Raises:
        DataError: the folder does not exist, has none of the layouts, or contains nothing usable.
    """
    check_int("max_pixels", max_pixels)
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give one that holds {LAYOUTS}")
    problems = Problems(on_bad)
    try:
        data = _open(root, problems, parts, max_pixels)
    except OSError as error:
        raise DataError(
            f"{error.filename or root}: {error.strerror or error}; check the path and its permissions"
        ) from error
    problems.settle()
    return data


def _open(root: Path, problems: Problems, parts: Sequence[Part], max_pixels: int) -> DetectionData:
    name = root.resolve().name
    if (root / "leftImg8bit").is_dir():
        train, val = (
            cityscapes.read_cityscapes(root, part, problems, max_pixels) if part in parts else () for part in PARTS
        )
        return DetectionData(name, cityscapes.CLASSES, tuple(cityscapes.THINGS), train, val, True, problems, False)
    if (root / "Annotations").is_dir() and (root / "ImageSets").is_dir():
        masks = (root / "SegmentationObject").is_dir()
        names = {part: voc.names_of(root, part, masks) for part in PARTS}
        classes = voc.classes_of(root, names["train"] + names["val"])
        train, val = (
            voc.read_voc(root, names[part], classes, problems, masks, max_pixels) if part in parts else ()
            for part in PARTS
        )
        return DetectionData(name, classes, tuple(range(1, len(classes) + 1)), train, val, masks, problems, False)
    files = {part: file for part in PARTS if part in parts and (file := _coco_file(root, part)) is not None}
    if not files:
        raise DataError(f"{root}: has none of the known layouts; it needs {LAYOUTS}")
    return _coco(name, root, files, problems, max_pixels)


def _coco(name: str, root: Path, files: dict[Part, Path], problems: Problems, max_pixels: int) -> DetectionData:
    way_out = "fetch or write it again"
    read = {part: parse_coco(read_bytes(file, way_out), str(file)) for part, file in files.items()}
    categories = categories_of(list(read.values()))
    photos: dict[str, tuple[Photo, ...]] = dict.fromkeys(PARTS, ())
    has_masks = True
    for part, coco in read.items():
        finder = Finder(_image_folders(root, part, files[part]))
        coco = replace(coco, name=files[part].name)
        photos[part], masks = photos_of(coco, categories, finder, problems, max_pixels)
        has_masks = has_masks and masks
    numbers, classes = zip(*categories, strict=True) if categories else ((), ())
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
    """The folders that may contain the images of a part, the most likely one first."""
    own = root / file.stem.removeprefix("instances_")  # instances_train2017.json -> train2017
    named = [folder for name in ALSO[part] for folder in (root / name, root / "images" / name)]
    return [file.parent, own, root / "images" / own.name, *named, root / "images", root]
