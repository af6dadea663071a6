"""The records that every annotation format is read into: objects, photos and data sets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from leanconv.core.errors import DataError, SettingError
from leanconv.data.classes import class_names
from leanconv.data.encoded import Files, stored
from leanconv.data.fingerprint import FINGERPRINT, OBJECTS, digest, spread
from leanconv.data.problems import Problems
from leanconv.detect.data.masks import as_coco_mask, pycocotools_mask, run_lengths

Box = tuple[float, float, float, float]
Part = Literal["train", "val"]
THINNEST = 0.01  # smallest side of a box in pixels; a smaller side may become 0 in float32


@dataclass(frozen=True)
class Instance:
    """One object in a photo.

    Args:
        box: x1, y1, x2, y2 in pixels, inside the photo and not empty.
        label: from 1 to the number of classes; 0 is the background.
        area: in square pixels, of the mask, or of the box without a mask. COCO's sizes small, medium and large use it.
        segmentation: polygons or a run-length code, from `leanconv.detect.data.masks.as_coco_mask`; None without a mask.
        crowd: a region with many objects. It is not used for training, and does not count as missed.
    """

    box: Box
    label: int
    area: float
    segmentation: Any = None
    crowd: bool = False

    def mask(self, height: int, width: int) -> np.ndarray:
        """The mask, bool (height, width); without a mask, the filled box.

        >>> Instance((0, 0, 2, 1), label=1, area=2).mask(2, 3).tolist()
        [[True, True, False], [False, False, False]]
        """
        if self.segmentation is None:
            x1, y1, x2, y2 = (round(value) for value in self.box)
            drawn = np.zeros((height, width), dtype=bool)
            drawn[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = True
            return drawn
        return pycocotools_mask().decode(run_lengths(self.segmentation, height, width)).astype(bool)


@dataclass(frozen=True)
class Photo:
    """One image file with its objects. The file is decoded when it is needed.

    Args:
        id: an integer, unique in its part.
        path: the image file.
        height, width: in pixels, as the boxes refer to them.
        instances: the objects.
        classes: the names of the labels 1, 2, ... of the data set; () if they are not known.
    """

    id: int
    path: Path
    height: int
    width: int
    instances: tuple[Instance, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def objects(self) -> tuple[Instance, ...]:
        """The instances without the crowds."""
        return tuple(instance for instance in self.instances if not instance.crowd)

    def masks(self) -> np.ndarray:
        """The masks of the N objects, bool (N, H, W)."""
        drawn = [instance.mask(self.height, self.width) for instance in self.objects]
        return np.stack(drawn) if drawn else np.zeros((0, self.height, self.width), dtype=bool)


@dataclass(frozen=True)
class DetectionData:
    """A detection data set: a train and a val part with the same classes.

    Args:
        name: of the data set.
        classes: the class names; label i is ``classes[i - 1]``.
        category_ids: the ids of the classes in the files of the data set.
        train, val: the photos.
        has_masks: whether every object has a mask.
        problems: what was left out.
        masks_overlap: whether two masks can cover the same pixel. They cannot if the masks come from one image of instance
            numbers.

    Raises:
        DataError: there is no class or no photo, or class names are repeated.
    """

    name: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    train: tuple[Photo, ...]
    val: tuple[Photo, ...]
    has_masks: bool
    problems: Problems
    masks_overlap: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", class_names(self.classes, self.name))
        if not self.classes:
            raise DataError(f"{self.name}: no category; name at least one")
        for part in ("train", "val"):
            photos = getattr(self, part)
            if any(photo.classes != self.classes for photo in photos):
                object.__setattr__(self, part, tuple(replace(photo, classes=self.classes) for photo in photos))
        if not self.train and not self.val:
            raise DataError(f"{self.name}: no photo that can be used; see what was skipped: {self.problems.lines()}")

    @property
    def num_classes(self) -> int:
        """The number of classes including the background, as in torchvision."""
        return len(self.classes) + 1

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the boxes and labels, and of 16 photos of each part, by which a run recognises its data."""
        pieces: list[bytes] = []
        for photos in (self.train, self.val):
            objects = [(*found.box, found.label, found.crowd) for photo in photos for found in photo.instances]
            looked_at = [str(photos[place].path) for place in spread(len(photos))]
            pieces += [np.array(objects, dtype=np.float64).tobytes(), *stored(Files(looked_at), range(len(looked_at)))]
        return digest(pieces)

    @cached_property
    def objects_digest(self) -> str:
        """A hash of all objects, photo by photo: boxes, labels, areas, crowds and masks."""
        return digest(piece for photos in (self.train, self.val) for photo in photos for piece in _pieces(photo))

    def facts(self) -> dict[str, Any]:
        """What a run notes of its data, as JSON values: two runs with other facts are other runs."""
        sizes = {"classes": len(self.classes), "train": len(self.train)}
        return {"name": self.name, **sizes, FINGERPRINT: self.fingerprint, OBJECTS: self.objects_digest}

    def part(self, name: Part) -> tuple[Photo, ...]:
        """The photos of "train" or "val".

        Raises:
            SettingError: another name.
            DataError: the part has no photos.
        """
        if name not in ("train", "val"):
            raise SettingError(f"part={name!r} must be train or val")
        photos = self.train if name == "train" else self.val
        if not photos:
            raise DataError(f"{self.name}: its {name} part has no photo that can be used; add some")
        return photos


def _pieces(photo: Photo) -> Iterator[bytes]:
    """What the objects of a photo are recognised by: a table of them, then their masks."""
    outlines = [_outlines(found.segmentation) for found in photo.instances]
    table = [
        (*found.box, found.label, found.crowd, found.area, len(own))
        for found, own in zip(photo.instances, outlines, strict=True)
    ]
    yield np.array(table, dtype=np.float64).tobytes()
    for own in outlines:
        yield from own


def _outlines(segmentation: Any) -> list[bytes]:
    """The polygons of a mask, or its run-length code; none without a mask."""
    if segmentation is None:
        return []
    if isinstance(segmentation, dict):
        return [str(segmentation["counts"]).encode()]
    return [np.asarray(polygon, dtype=np.float64).tobytes() for polygon in segmentation]


def checked(
    box: Box, label: int, height: int, width: int, problems: Problems, where: str, *, area: Any = None,
    segmentation: Any = None, crowd: bool = False,
) -> Iterator[Instance]:  # fmt: skip
    """Check one object and yield it, with its box clipped to the photo. Yield nothing, with a note, if no area is left.

    Args:
        box: x1, y1, x2, y2 in pixels.
        label, segmentation, crowd: see `Instance`.
        height, width: of the photo, in pixels.
        problems: collects what is wrong.
        where: the name of the object in a note.
        area: the area in the file. A value that is negative or larger than the image is noted, and computed again.
    """
    if not all(map(math.isfinite, box)):
        problems.add("box that is not of finite numbers", where)
        return
    x1, y1, x2, y2 = box
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if inside[2] - inside[0] < THINNEST or inside[3] - inside[1] < THINNEST:
        problems.add("box without an area in its image", where)
        return
    if any(abs(before - after) > 1.0 for before, after in zip(box, inside, strict=True)):
        problems.add("box that reaches beyond its image, cut at the border", where)
    if segmentation is not None:
        try:
            segmentation = as_coco_mask(segmentation, height, width)
        except DataError as error:
            problems.add("mask that is no polygon and no run-length code", f"{where}: {error}")
            return
    known = number(area)
    if area is not None and (known is None or not 0 <= known <= height * width + 1):
        problems.add("area that is none of its image, computed anew", where)
    if known is None or not 0 < known <= height * width + 1:
        own = (inside[2] - inside[0]) * (inside[3] - inside[1])
        known = (
            own if segmentation is None else float(pycocotools_mask().area(run_lengths(segmentation, height, width)))
        )
    yield Instance(inside, label, known, segmentation, crowd)


def number(value: Any) -> float | None:
    """A finite number, from a number or a text; None for anything else.

    >>> number("1.5"), number("many"), number(float("inf"))
    (1.5, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole_number(value: Any) -> int | None:
    """An integer, from a number or a text, also with a decimal point and zeros; None for anything else.

    >>> whole_number("3.0"), whole_number(3.5)
    (3, None)
    """
    if type(value) is int:
        return value if abs(value) < 2**53 else None
    found = number(value)
    return int(found) if found is not None and found.is_integer() and abs(found) < 2**53 else None
