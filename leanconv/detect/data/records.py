"""What every format of annotations is read into, and what was wrong with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from leanconv.core.errors import DataError, SettingError
from leanconv.data.classes import class_names
from leanconv.data.problems import Problems
from leanconv.detect.data.masks import as_coco_mask, pycocotools_mask, run_lengths

Box = tuple[float, float, float, float]
Part = Literal["train", "val"]
THINNEST = 0.01  # pixels of a box's side: less may vanish in float32


@dataclass(frozen=True)
class Instance:
    """One object.

    Args:
        box: x1, y1, x2, y2 in pixels, inside the photo, with an area.
        label: 1 to the number of classes; 0 is the background.
        area: of the mask where there is one, else of the box: what COCO's small, medium and large go by.
        segmentation: what `as_coco_mask` gives: polygons, or a run-length code; None without a mask.
        crowd: a region of many objects, which is neither trained on nor counted as missed.
    """

    box: Box
    label: int
    area: float
    segmentation: Any = None
    crowd: bool = False

    def mask(self, height: int, width: int) -> np.ndarray:
        """(H, W), boolean; the filled box where there is no mask."""
        if self.segmentation is None:
            x1, y1, x2, y2 = (round(value) for value in self.box)
            drawn = np.zeros((height, width), dtype=bool)
            drawn[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = True
            return drawn
        return pycocotools_mask().decode(run_lengths(self.segmentation, height, width)).astype(bool)


@dataclass(frozen=True)
class Photo:
    """One image file with its objects; it is decoded when it is asked for.

    Args:
        classes: names of the labels 1, 2, ... of its data set; () where they are not known.
    """

    id: int
    path: Path
    height: int
    width: int
    instances: tuple[Instance, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def objects(self) -> tuple[Instance, ...]:
        """The instances that are not crowds."""
        return tuple(instance for instance in self.instances if not instance.crowd)

    def masks(self) -> np.ndarray:
        """(N, H, W), boolean, of the objects."""
        drawn = [instance.mask(self.height, self.width) for instance in self.objects]
        return np.stack(drawn) if drawn else np.zeros((0, self.height, self.width), dtype=bool)


@dataclass(frozen=True)
class DetectionData:
    """A train and a val part with the same classes.

    Args:
        classes: their names; label i is ``classes[i - 1]``.
        category_ids: the numbers that the data set's own files give them.
        has_masks: whether every object has a mask.
        masks_overlap: whether two masks can cover a pixel; not where they are drawn as one image of instance numbers.
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
        """With the background, as torchvision counts."""
        return len(self.classes) + 1

    def part(self, name: Part) -> tuple[Photo, ...]:
        """Its photos; DataError where it has none."""
        if name not in ("train", "val"):
            raise SettingError(f"part={name!r} must be train or val")
        photos = self.train if name == "train" else self.val
        if not photos:
            raise DataError(f"{self.name}: its {name} part has no photo that can be used; add some")
        return photos


def checked(
    box: Box, label: int, height: int, width: int, problems: Problems, where: str, *, area: Any = None,
    segmentation: Any = None, crowd: bool = False,
) -> Iterator[Instance]:  # fmt: skip
    """The instance, its box cut at the photo's border; nothing, and a note, where no area is left.

    Args:
        area: what the file says; one that no part of the image can have is noted, and computed anew.
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
    """A finite number, written as one or as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole_number(value: Any) -> int | None:
    """A whole number, written as one, with a point and zeros, or as text; None for anything else."""
    if type(value) is int:
        return value if abs(value) < 2**53 else None
    found = number(value)
    return int(found) if found is not None and found.is_integer() and abs(found) < 2**53 else None
