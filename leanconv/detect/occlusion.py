"""How much the objects of an image overlap."""

from __future__ import annotations

import numpy as np

from leanconv.core.errors import SettingError


def occlusion_of_masks(masks: np.ndarray) -> float:
    """The occlusion ratio of an image, by its instances' masks.

        r = area that two or more instances cover / area that any instance covers

    Crowd regions are left out by the caller. 0 without an instance.

    Args:
        masks: (N, H, W), boolean.

    Source: Wang & Yu 2021, eq. 5, "total overlap area / total instance area"; the paper does not say whether an area
    that several instances cover counts once. Here it does, so that r lies in [0, 1].
    """
    masks = np.asarray(masks)
    if masks.ndim != 3:
        raise SettingError(f"masks of shape {masks.shape} must be (instances, height, width)")
    if not len(masks):
        return 0.0
    count = masks.astype(bool).sum(0)
    covered = int((count >= 1).sum())
    return float((count >= 2).sum() / covered) if covered else 0.0


def occlusion_of_boxes(boxes: np.ndarray) -> float:
    """The same of boxes, exactly: the area under two or more of them over the area under any.

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
    areas = np.diff(ys)[:, None] * np.diff(xs)[None]
    return float(areas[count >= 2].sum() / areas[count >= 1].sum())
