"""What every format of annotations is read into, and what was wrong with it."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from leanconv.core.errors import DataError, SettingError
from leanconv.data.classes import class_names

OnBad = Literal["skip", "refuse"]
Box = tuple[float, float, float, float]
Part = Literal["train", "val"]
THINNEST = 0.01  # pixels of a box's side: less may vanish in float32
FAR = 10  # image sides that a polygon may reach beyond its image


@dataclass(frozen=True)
class Instance:
    """One object.

    Args:
        box: x1, y1, x2, y2 in pixels, inside the photo, with an area.
        label: 1 to the number of classes; 0 is the background.
        area: of the mask where there is one, else of the box: what COCO's small, medium and large go by.
        segmentation: what `compact` gives: polygons, or a run-length code; None without a mask.
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
        return _pycocotools().decode(run_lengths(self.segmentation, height, width)).astype(bool)


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


@dataclass
class Problems:
    """What was wrong with a data set: each kind with its count and the first place where it was found.

    Args:
        on_bad: "skip" leaves out what is wrong, "refuse" raises DataError at the first.
    """

    on_bad: OnBad = "skip"
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.on_bad not in ("skip", "refuse"):
            raise SettingError(f"on_bad={self.on_bad!r} must be skip or refuse")

    def add(self, kind: str, where: str) -> None:
        """Note one, or raise."""
        if self.on_bad == "refuse":
            raise DataError(f"{where}: {kind}; mend it, or leave such things out with --on-bad skip")
        self.counts[kind] += 1
        self.first.setdefault(kind, where)

    def lines(self) -> list[str]:
        """One sentence a kind."""
        return [f"{count} x {kind} (first: {self.first[kind]})" for kind, count in self.counts.most_common()]

    def to_json(self) -> dict[str, Any]:
        return {kind: {"count": count, "first": self.first[kind]} for kind, count in self.counts.items()}


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
        object.__setattr__(self, "classes", class_names(self.classes, self.name, "category"))
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
    box: Box, label: int, height: int, width: int, problems: Problems, where: str, *, area: float | None = None,
    segmentation: Any = None, crowd: bool = False,
) -> Iterator[Instance]:  # fmt: skip
    """The instance, its box cut at the photo's border; nothing, and a note, where no area is left."""
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
            segmentation = compact(segmentation, height, width)
        except DataError as error:
            problems.add("mask that is no polygon and no run-length code", f"{where}: {error}")
            return
    if area is None and segmentation is not None:
        area = float(_pycocotools().area(run_lengths(segmentation, height, width)))
    own = (inside[2] - inside[0]) * (inside[3] - inside[1])
    yield Instance(inside, label, own if area is None else area, segmentation, crowd)


def compact(segmentation: Any, height: int, width: int) -> Any:
    """A mask in any of COCO's forms, checked, as polygons of doubles or as a run-length code.

    Lists of numbers would take seven times the memory, and each worker a copy of its own.

    Raises:
        DataError: it is none of them, or of another size.
    """
    try:
        if isinstance(segmentation, list | tuple):
            polygons = tuple(array("d", polygon) for polygon in segmentation if len(polygon) >= 6)
            if not polygons or any(len(polygon) % 2 for polygon in polygons):
                raise DataError("a polygon needs three points or more")
            far = FAR * max(height, width)  # pycocotools draws what is outside too, and crashes far away
            if not all(-far <= value <= far for polygon in polygons for value in polygon):
                raise DataError("a polygon's points must be numbers near the image")
            return polygons
        if [int(side) for side in segmentation["size"]] != [height, width]:
            raise DataError(f"its size {segmentation['size']} is not the image's, {[height, width]}")
        counts = segmentation["counts"]
        if isinstance(counts, list):
            if sum(counts) != height * width:
                raise DataError("its counts do not add up to the image")
            return _pycocotools().frPyObjects({"size": [height, width], "counts": counts}, height, width)
        code = {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else bytes(counts)}
        if not counts:
            raise DataError("its counts are empty")
        _pycocotools().decode(code)
        return code
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise DataError(f"{type(error).__name__}: {str(error)[:80]}") from error


def run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed run-length code of what `compact` gave."""
    if isinstance(segmentation, dict):
        return segmentation
    maker = _pycocotools()
    return maker.merge(maker.frPyObjects([list(polygon) for polygon in segmentation], height, width))


def encode(mask: np.ndarray) -> dict[str, Any]:
    """The run-length code of a (H, W) mask."""
    return _pycocotools().encode(np.asfortranarray(mask.astype(np.uint8)))


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise SettingError("masks of COCO's format need pycocotools; pip install 'leanconv[coco]'") from error
    return mask
