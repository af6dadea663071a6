"""COCO's json: one file a part, with images, categories and annotations."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from leanconv.core.errors import DataError
from leanconv.detect.data.records import Instance, Photo, Problems, checked

Categories = tuple[tuple[int, str], ...]
FEW = 0.1  # of the objects: so many without a mask are a slip, more are data of boxes


def read_coco(file: Path, folders: list[Path], problems: Problems) -> tuple[Categories, tuple[Photo, ...], bool]:
    """The categories by rising id, the photos by rising id, and whether all objects have masks.

    Args:
        folders: where the images may lie; the first that has one counts.

    Raises:
        DataError: the file is not COCO's json.
    """
    content = _json(file)
    try:
        categories = tuple(sorted((int(c["id"]), str(c["name"])) for c in content["categories"]))
        images = {int(image["id"]): image for image in content["images"]}
        annotations: list[dict[str, Any]] = content["annotations"]
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(
            f"{file}: not COCO's json: {_missing(error)}; it needs images, categories, annotations"
        ) from None
    if len(images) < len(content["images"]):
        problems.add("image whose id another one has too", str(file))
    labels = {number: label for label, (number, _) in enumerate(categories, start=1)}
    by_image: dict[int, list[Instance]] = defaultdict(list)
    for annotation in annotations:
        where = f"{file.name}, annotation {annotation.get('id', '?') if isinstance(annotation, dict) else '?'}"
        try:
            image = images.get(int(annotation["image_id"]))
            label = labels.get(int(annotation["category_id"]))
            left, top, width, height = (float(value) for value in annotation["bbox"])
        except (TypeError, KeyError, ValueError) as error:
            problems.add(f"annotation without {_missing(error)}", where)
            continue
        if image is None or label is None:
            problems.add("annotation of an unknown " + ("image" if image is None else "category"), where)
            continue
        try:
            size = int(image["height"]), int(image["width"])
        except (TypeError, KeyError, ValueError):
            continue  # the image is noted below
        area = annotation.get("area")
        by_image[int(annotation["image_id"])] += checked(
            (left, top, left + width, top + height), label, *size, problems, where,
            area=float(area) if isinstance(area, int | float) else None,
            segmentation=annotation.get("segmentation") or None, crowd=bool(annotation.get("iscrowd", 0)),
        )  # fmt: skip
    has_masks = _have_masks(by_image, file, problems)
    photos = []
    for number, image in sorted(images.items()):
        photo = _photo(number, image, file, folders, by_image[number], problems)
        if photo is not None:
            photos.append(photo)
    return categories, tuple(photos), has_masks


def _have_masks(by_image: dict[int, list[Instance]], file: Path, problems: Problems) -> bool:
    """Whether the objects have masks; the few that have none among many that do are left out."""
    without = sum(instance.segmentation is None for found in by_image.values() for instance in found)
    total = sum(map(len, by_image.values()))
    if not total or without > FEW * total:
        return False
    for number, found in by_image.items() if without else ():
        kept = [instance for instance in found if instance.segmentation is not None]
        for _ in range(len(found) - len(kept)):
            problems.add("object without a mask, among others that have one", f"{file.name}, image {number}")
        by_image[number] = kept
    return True


def _photo(
    number: int, image: Any, file: Path, folders: list[Path], instances: list[Instance], problems: Problems
) -> Photo | None:
    try:
        name, height, width = str(image["file_name"]), int(image["height"]), int(image["width"])
    except (TypeError, KeyError, ValueError) as error:
        problems.add(f"image without {_missing(error)}", f"{file.name}, image {number}")
        return None
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if found is None:
        problems.add("image file that is not there", name)
        return None
    return Photo(number, found, height, width, tuple(instances))


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        what = getattr(error, "strerror", None) or "not whole json"
        raise DataError(f"{file}: {what}; fetch or write it again") from error


def _missing(error: Exception) -> str:
    return f"a readable {error.args[0]}" if isinstance(error, KeyError) else f"readable numbers ({str(error)[:60]})"
