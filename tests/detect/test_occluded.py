"""Occlusion against an oracle that counts pixels one by one."""

from __future__ import annotations

import numpy as np
import pytest

from leanconv.core.errors import SettingError
from leanconv.detect import occlusion_of_boxes, occlusion_of_masks


def counted(masks: np.ndarray) -> float:
    total = overlapping = 0
    for y in range(masks.shape[1]):
        for x in range(masks.shape[2]):
            covering = sum(bool(mask[y, x]) for mask in masks)
            total += covering
            overlapping += covering if covering >= 2 else 0
    return overlapping / total if total else 0.0


def test_masks_and_boxes_equal_counted_pixels():
    draw = np.random.default_rng(0)
    for _ in range(30):
        boxes = []
        masks = np.zeros((draw.integers(1, 7), 20, 24), dtype=bool)
        for mask in masks:
            x1, y1 = draw.integers(0, 18), draw.integers(0, 14)
            x2, y2 = x1 + draw.integers(1, 7), y1 + draw.integers(1, 7)
            mask[y1:y2, x1:x2] = True
            boxes.append((x1, y1, x2, y2))
        assert occlusion_of_masks(masks) == pytest.approx(counted(masks))
        assert occlusion_of_boxes(np.array(boxes)) == pytest.approx(counted(masks))


def test_the_ends():
    same = np.ones((3, 4, 4), dtype=bool)
    assert occlusion_of_masks(same) == 1 and occlusion_of_masks(same[:1]) == 0
    assert occlusion_of_masks(np.zeros((0, 4, 4))) == 0 and occlusion_of_masks(np.zeros((2, 4, 4))) == 0
    assert occlusion_of_boxes(np.zeros((0, 4))) == 0 and occlusion_of_boxes(np.array([[1, 1, 1, 5]])) == 0
    assert occlusion_of_boxes(np.array([[0, 0, 2, 2], [1, 0, 3, 2]])) == pytest.approx(0.5)
    with pytest.raises(SettingError, match="must be \\(instances, 4\\)"):
        occlusion_of_boxes(np.zeros(4))
    with pytest.raises(SettingError, match="must be \\(instances, height, width\\)"):
        occlusion_of_masks(np.zeros((4, 4)))
