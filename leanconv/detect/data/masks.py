"""Check masks in COCO's formats before pycocotools reads them, because its C code does not check its input."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np

from leanconv.core.errors import DataError, SettingError

FAR = 10  # a polygon may reach this many image sides beyond its image
LONGEST = 10_000_000  # longest outline of a mask in pixels; pycocotools keeps five points for each pixel


def as_coco_mask(segmentation: Any, height: int, width: int) -> Any:
    """Check a mask in any of COCO's formats, and return it as polygons of doubles or as a run-length code.

    Lists of numbers would take seven times the memory, and each worker process would copy them.

    Args:
        segmentation: a list of polygons, or a dict with "size" and "counts".
        height, width: of the image, in pixels.

    Raises:
        DataError: the mask has another format or another size.
    """
    if isinstance(segmentation, list | tuple):
        return _polygons(segmentation, height, width)
    if not isinstance(segmentation, dict) or "size" not in segmentation or "counts" not in segmentation:
        raise DataError(f"{type(segmentation).__name__} where a list of polygons or a size with counts is needed")
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, list | tuple) or len(size) != 2 or any(type(side) is bool for side in size):
        raise DataError("its size must be two numbers: height, width")
    if list(size) != [height, width]:
        raise DataError(f"its size {str(size)[:40]} is not the image's, {[height, width]}")
    if isinstance(counts, list | tuple):
        runs = list(counts)
    elif isinstance(counts, str | bytes):
        runs = _runs(counts)
    else:
        raise DataError("its counts must be a list of numbers, or their code")
    most = height * width
    if not runs:
        raise DataError("its counts are empty")
    if not all(type(run) is int and 0 <= run <= most for run in runs):
        raise DataError("its counts must be whole numbers of the image's pixels")
    if sum(runs) != most:
        raise DataError("its counts do not add up to the image")
    return pycocotools_mask().frPyObjects({"size": [height, width], "counts": runs}, height, width)


def run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed run-length code of a mask that `as_coco_mask` returned; `height` and `width` are those of the image."""
    if isinstance(segmentation, dict):
        return segmentation
    maker = pycocotools_mask()
    return maker.merge(maker.frPyObjects([list(polygon) for polygon in segmentation], height, width))


def encode(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run-length code of a mask (H, W)."""
    return pycocotools_mask().encode(np.asfortranarray(mask.astype(np.uint8)))


def _polygons(polygons: Any, height: int, width: int) -> tuple[array[float], ...]:
    if polygons and all(isinstance(value, int | float) for value in polygons):
        polygons = [polygons]  # a single polygon, without the outer list
    found = []
    far, outline = FAR * max(height, width), 0.0  # pycocotools also draws outside the image, and crashes far outside
    for polygon in polygons:
        if not isinstance(polygon, list | tuple):
            raise DataError(f"{type(polygon).__name__} where a polygon is needed")
        if len(polygon) < 6:  # a point or a line has no area
            continue
        try:
            points = array("d", polygon)
        except (TypeError, OverflowError):
            raise DataError("a polygon's points must be numbers near the image") from None
        if len(points) % 2:
            raise DataError("a polygon needs an even count of numbers, x and y in turn")
        if not math.isfinite(sum(points)) or min(points) < -far or max(points) > far:
            raise DataError("a polygon's points must be numbers near the image")
        outline += _outline(points)
        found.append(points)
    if not found:
        raise DataError("a polygon needs three points or more")
    if outline > LONGEST:
        raise DataError(f"its outline of {outline:,.0f} pixels is too long for an object")
    return tuple(found)


def _outline(points: array[float]) -> float:
    """The length of a polygon's outline in pixels: an upper bound if that is small, else the exact length."""
    xs, ys = points[0::2], points[1::2]
    bound = len(xs) * max(max(xs) - min(xs), max(ys) - min(ys))
    if bound <= LONGEST / 100:
        return bound
    x, y = np.asarray(xs), np.asarray(ys)
    return float(np.maximum(np.abs(x - np.roll(x, 1)), np.abs(y - np.roll(y, 1))).sum())


def _runs(code: str | bytes) -> list[int]:
    """The runs of a COCO run-length code.

    Each character has five bits of a number, and a sixth bit that says whether more follow. From the third run on, the code
    stores the difference from the run two places before.

    Raises:
        DataError: the text is not such a code.
    """
    try:
        characters = np.frombuffer(code.encode("ascii") if isinstance(code, str) else code, dtype=np.uint8)
    except UnicodeEncodeError:
        raise DataError("its counts are no run-length code") from None
    values = characters.astype(np.int64) - 48
    if not len(values) or values.min() < 0 or values.max() > 63 or values[-1] & 0x20:
        raise DataError("its counts are no run-length code")
    ends = np.flatnonzero(values & 0x20 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 6:  # 35 bits: more than any image has pixels
        raise DataError("its counts are no run-length code")
    place = np.arange(len(values)) - np.repeat(starts, ends - starts + 1)
    runs = np.add.reduceat((values & 0x1F) << (5 * place), starts)
    runs -= np.where(values[ends] & 0x10, np.int64(1) << (5 * (ends - starts + 1)), 0)  # its sign
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs.tolist()


def pycocotools_mask() -> Any:
    """The module ``pycocotools.mask``.

    Raises:
        SettingError: pycocotools is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise SettingError("masks of COCO's format need pycocotools; pip install 'leanconv[coco]'") from error
    return mask
