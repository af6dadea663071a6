"""Read COCO's JSON: one file for each part, with images, categories and annotations."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from leanconv.core.errors import DataError
from leanconv.data.encoded import MAX_PIXELS
from leanconv.data.problems import Problems
from leanconv.data.text import json_of
from leanconv.detect.data.find import Finder, find_images
from leanconv.detect.data.records import Instance, Photo, checked, number, whole_number

Categories = tuple[tuple[int, str], ...]
FEW = 0.1  # up to this share of objects without a mask is an error in the data; above it, the data has only boxes
NOTHING = (None, "", "none", "None")  # the supercategory of a category without a parent
Key = int | str


@dataclass(frozen=True)
class Coco:
    """The content of a file; the entries of its lists are not checked yet.

    Args:
        name: what an error calls the file.
        categories: (id, name), by rising id.
        groups: ids of categories that are the parent of other categories and have no parent.
        used: ids of the categories that annotations use.
        images, annotations: the lists of the file.
    """

    name: str
    categories: Categories
    groups: frozenset[int]
    used: frozenset[int]
    images: list[Any]
    annotations: list[Any]


def parse_coco(data: bytes, name: str) -> Coco:
    """Read the lists of a COCO file, and check its categories.

    Args:
        data: the bytes of the file.
        name: what an error calls the file.

    Raises:
        DataError: the file is not COCO's JSON, or a category lacks an id or a name, or two categories have the same id.
    """
    content = json_of(data, name)
    needed = "it needs images, categories, annotations"
    if not isinstance(content, dict):
        raise DataError(f"{name}: not COCO's json: a {type(content).__name__}; {needed}")
    for key in ("images", "categories", "annotations"):
        if not isinstance(content.get(key), list):
            kind = f"a readable {key}" if key not in content else f"a list of {key} but {str(content[key])[:40]}"
            raise DataError(f"{name}: not COCO's json: without {kind}; {needed}")
    categories: dict[int, str] = {}
    above: dict[int, Any] = {}
    for entry in content["categories"]:
        found = entry if isinstance(entry, dict) else {}
        number, title = whole_number(found.get("id")), found.get("name")
        if number is None or not isinstance(title, str) or not title.strip():
            raise DataError(f"{name}: category {str(entry)[:80]} needs a whole number as id and a name; fix it")
        if categories.get(number, title) != title:
            raise DataError(
                f"{name}: categories {categories[number]!r} and {title!r} have the id {number}; give each its own"
            )
        categories[number], above[number] = title, found.get("supercategory")
    used = frozenset(
        number
        for entry in content["annotations"]
        if isinstance(entry, dict) and (number := whole_number(entry.get("category_id"))) is not None
    )
    groups = frozenset(
        key
        for key, title in categories.items()
        if (above[key] in NOTHING) and any(above[other] == title for other in categories if other != key)
    )
    listed = tuple(sorted(categories.items()))
    return Coco(name, listed, groups, used, content["images"], content["annotations"])


def categories_of(files: Sequence[Coco]) -> Categories:
    """The categories of the parts of a data set, without groups that have no objects.

    Roboflow writes such a group first, with the id 0 and the name of the project or of its only class.

    Raises:
        DataError: the parts have different categories.
    """
    used = frozenset[int]().union(*(file.used for file in files))
    kinds = [tuple(c for c in file.categories if c[0] not in file.groups or c[0] in used) for file in files]
    for file, kind in zip(files, kinds, strict=True):
        if kind != kinds[0]:
            different = sorted(set(kinds[0]) ^ set(kind))[0]
            raise DataError(
                f"{file.name}: train and val have different categories, {different} first; list the same in both"
            )
    return kinds[0]


def photos_of(
    coco: Coco, categories: Categories, finder: Finder, problems: Problems, max_pixels: int = MAX_PIXELS
) -> tuple[tuple[Photo, ...], bool]:
    """The photos by rising id, and whether all objects have masks.

    ``iscrowd`` makes an object a crowd. ``ignore`` has no effect: COCOeval sets it from ``iscrowd``.

    Args:
        coco: one part.
        categories: of the data set, see `categories_of`.
        finder: finds the image files.
        problems: collects what is wrong.
        max_pixels: an image with more pixels is left out.
    """
    images = _images(coco, problems)
    wanted = [(str(image["file_name"]), image.get("height"), image.get("width"), where) for _, image, where in images]
    found = find_images(wanted, finder, problems, max_pixels)
    sizes = {key: file.size for (key, *_), file in zip(images, found, strict=True) if file is not None}
    left_out = {_key(entry.get("id")) for entry in coco.images if isinstance(entry, dict)} - set(sizes)
    by_image = _instances(coco, categories, sizes, left_out, problems)
    has_masks = _have_masks(by_image, coco.name, problems)
    numbered = all(type(key) is int for key, *_ in images)
    photos = [
        Photo(key if numbered and type(key) is int else place, file.path, *file.size, tuple(by_image[key]))
        for place, ((key, *_), file) in enumerate(zip(images, found, strict=True), start=1)
        if file is not None
    ]
    return tuple(sorted(photos, key=lambda photo: photo.id)), has_masks


def _images(coco: Coco, problems: Problems) -> list[tuple[Key, dict[str, Any], str]]:
    """(id, entry, name in notes) of each image that has a unique id and a file name."""
    found: dict[Key, dict[str, Any]] = {}
    doubled: Counter[Key] = Counter()
    for entry in coco.images:
        key = _key(entry.get("id")) if isinstance(entry, dict) else None
        if key is None:
            problems.add("image without a readable id", f"{coco.name}, {str(entry)[:60]}")
        elif key in found and found[key].get("file_name") != entry.get("file_name"):
            doubled[key] += 1
        else:
            found.setdefault(key, entry)
    for key, count in doubled.items():  # it is not known which image the annotations belong to
        del found[key]
        for _ in range(count + 1):
            problems.add("image whose id another one has too", f"{coco.name}, image {key}")
    named = []
    for key, entry in found.items():
        where = f"{coco.name}, image {key}"
        name = entry.get("file_name")
        if isinstance(name, str) and name.strip():
            named.append((key, entry, where))
        else:
            problems.add("image without a readable file_name", where)
    return named


def _instances(
    coco: Coco, categories: Categories, sizes: dict[Key, tuple[int, int]], left_out: set[Key | None], problems: Problems
) -> dict[Key, list[Instance]]:
    labels = {key: label for label, (key, _) in enumerate(categories, start=1)}
    by_image: dict[Key, list[Instance]] = defaultdict(list)
    for annotation in coco.annotations:
        if not isinstance(annotation, dict):
            problems.add("annotation that is no object", f"{coco.name}, {str(annotation)[:60]}")
            continue
        where = f"{coco.name}, annotation {str(annotation.get('id', '?'))[:40]}"
        image, category = _key(annotation.get("image_id")), whole_number(annotation.get("category_id"))
        box, crowd = annotation.get("bbox"), _flag(annotation.get("iscrowd"))
        if image is None or category is None or crowd is None:
            wrong = "image_id" if image is None else "category_id" if category is None else "iscrowd"
            problems.add(f"annotation without a readable {wrong}", where)
            continue
        if image in left_out:  # already noted
            continue
        if image not in sizes or category not in labels:
            problems.add("annotation of an unknown " + ("category" if image in sizes else "image"), where)
            continue
        numbers = _box(box)
        if numbers is None:
            problems.add("annotation without readable numbers in its bbox", where)
            continue
        left, top, width, height = numbers
        by_image[image] += checked(
            (left, top, left + width, top + height), labels[category], *sizes[image], problems, where,
            area=annotation.get("area"), segmentation=annotation.get("segmentation") or None, crowd=crowd,
        )  # fmt: skip
    return by_image


def _have_masks(by_image: dict[Key, list[Instance]], name: str, problems: Problems) -> bool:
    """Whether the objects have masks. If only a few objects have none, these are left out."""
    without = sum(instance.segmentation is None for found in by_image.values() for instance in found)
    total = sum(map(len, by_image.values()))
    if not total or without > FEW * total:
        return False
    for key, found in by_image.items() if without else ():
        kept = [instance for instance in found if instance.segmentation is not None]
        for _ in range(len(found) - len(kept)):
            problems.add("object without a mask, among others that have one", f"{name}, image {key}")
        by_image[key] = kept
    return True


def _key(value: Any) -> Key | None:
    """The id of an image: an integer in any form, or a text."""
    found = whole_number(value)
    return found if found is not None else value.strip() or None if isinstance(value, str) else None


def _flag(value: Any) -> bool | None:
    """0 or 1 in any form; 0 if the value is missing."""
    if value is None or isinstance(value, bool):
        return bool(value)
    found = whole_number(value)
    return bool(found) if found in (0, 1) else None


def _box(value: Any) -> tuple[float, float, float, float] | None:
    """The four numbers of a box; None if they are not numbers. Numbers that are not finite are kept: `checked` reports them."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        return None
    found = [side if isinstance(side, float) else number(side) for side in value]
    if any(side is None for side in found):
        return None
    left, top, width, height = (float(side) for side in found if side is not None)
    return left, top, width, height
