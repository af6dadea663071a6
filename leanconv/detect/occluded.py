"""How much the objects of an image overlap."""

from __future__ import annotations

from typing import Literal

import numpy as np

from leanconv.core.errors import SettingError
from leanconv.detect.data import Photo

OcclusionBy = Literal["masks", "boxes"]


def occlusion(photo: Photo, by: OcclusionBy = "masks") -> float:
    """The occlusion ratio of a photo's objects, crowds left out, by their masks or by their boxes."""
    if by == "masks":
        return occlusion_of_masks(photo.masks())
    if by != "boxes":
        raise SettingError(f"by={by!r} must be masks or boxes")
    return occlusion_of_boxes(np.array([instance.box for instance in photo.objects]).reshape(-1, 4))


def occlusion_of_masks(masks: np.ndarray) -> float:
    """The occlusion ratio of an image, by its instances' masks.

        r = sum over the instances of the area that another instance covers too / sum of the instances' areas

    So r is the share of the instances' area that overlaps, from 0 to 1. Crowd regions are left out by the caller.
    0 without an instance.

    Args:
        masks: (N, H, W), boolean.

    Source: Wang & Yu 2021, eq. 5, "total overlap area / total instance area"; the paper does not say how often an area
    counts that several instances cover. Here it counts for each of them, above and below the line.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3:
        raise SettingError(f"masks of shape {masks.shape} must be (instances, height, width)")
    if not len(masks):
        return 0.0
    count = masks.astype(bool).sum(0)
    total = int(count.sum())
    return float(count[count >= 2].sum() / total) if total else 0.0


def occlusion_of_boxes(boxes: np.ndarray) -> float:
    """The same of boxes, exactly.

    Args:
        boxes: (N, 4), x1, y1, x2, y2.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise SettingError(f"boxes of shape {boxes.shape} must be (instances, 4): x1, y1, x2, y2")
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    if not len(boxes):
        return 0.0
    # between neighbouring coordinates every cell is covered by the same boxes
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    count = np.zeros((len(ys) - 1, len(xs) - 1), dtype=np.int64)
    for x1, y1, x2, y2 in boxes:
        rows, columns = slice(*np.searchsorted(ys, [y1, y2])), slice(*np.searchsorted(xs, [x1, x2]))
        count[rows, columns] += 1
    areas = count * np.diff(ys)[:, None] * np.diff(xs)[None]
    return float(areas[count >= 2].sum() / areas.sum())
