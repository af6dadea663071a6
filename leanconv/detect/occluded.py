"""The occlusion ratio: how much the objects of an image overlap."""

from __future__ import annotations

from typing import Literal

import numpy as np

from leanconv.core.errors import SettingError
from leanconv.detect.data import Photo

OcclusionBy = Literal["masks", "boxes"]


def occlusion(photo: Photo, by: OcclusionBy = "masks") -> float:
    """The occlusion ratio of a photo's objects, without crowds.

    Args:
        photo: with its objects.
        by: measure the overlap on "masks" or on "boxes".

    Raises:
        SettingError: `by` has another value.
    """
    if by == "masks":
        return occlusion_of_masks(photo.masks())
    if by != "boxes":
        raise SettingError(f"by={by!r} must be masks or boxes")
    return occlusion_of_boxes(np.array([instance.box for instance in photo.objects]).reshape(-1, 4))


def occlusion_of_masks(masks: np.ndarray) -> float:
    """The occlusion ratio of an image, measured on the masks of its instances.

        r = sum over the instances of the area that another instance also covers / sum of the instances' areas

    r is the overlapping share of the instances' area, from 0 to 1. It is 0 without instances. The caller leaves out crowds.

    >>> occlusion_of_masks(np.array([[[1, 1, 0]], [[0, 1, 1]]]))
    0.5

    Args:
        masks: bool (N, H, W).

    Raises:
        SettingError: `masks` has another shape.

    Source: Wang & Yu 2021, eq. 5, "total overlap area / total instance area". The paper does not say how often an area counts
    that several instances cover. Here it counts once for each of these instances, in the numerator and in the denominator.
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
    """The occlusion ratio of an image, measured on the boxes of its instances; the areas are exact.

    >>> occlusion_of_boxes(np.array([[0, 0, 2, 1], [1, 0, 3, 1]]))
    0.5

    Args:
        boxes: (N, 4) as x1, y1, x2, y2; boxes without an area are ignored.

    Raises:
        SettingError: `boxes` has another shape.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise SettingError(f"boxes of shape {boxes.shape} must be (instances, 4): x1, y1, x2, y2")
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    if not len(boxes):
        return 0.0
    # the coordinates of all boxes form a grid; inside a cell of this grid, every point is covered by the same boxes
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    count = np.zeros((len(ys) - 1, len(xs) - 1), dtype=np.int64)
    for x1, y1, x2, y2 in boxes:
        rows, columns = slice(*np.searchsorted(ys, [y1, y2])), slice(*np.searchsorted(xs, [x1, x2]))
        count[rows, columns] += 1
    areas = count * np.diff(ys)[:, None] * np.diff(xs)[None]
    return float(areas[count >= 2].sum() / areas.sum())
