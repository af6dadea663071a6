"""Photos with labelled shapes, written here: bright rectangles (class box) and discs (class disc) on dark noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 3, "name": "box"}, {"id": 7, "name": "disc"}]


def shapes(seed: int, height: int = 48, width: int = 64) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Pixels, and annotations without ids."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 60, (height, width, 3), dtype=np.uint8)
    found = []
    for place in range(1 + seed % 3):
        w, h = (int(v) for v in draw.integers(10, 20, 2))
        x, y = int(draw.integers(0, width - w)), int(draw.integers(0, height - h))
        if place % 2 == 0:
            pixels[y : y + h, x : x + w] = (230, 60, 40)
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            found.append({"bbox": [x, y, w, h], "category_id": 3, "segmentation": [outline], "area": w * h})
        else:
            rows, columns = np.mgrid[:height, :width]
            inside = ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 <= 1
            pixels[inside] = (40, 90, 230)
            angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            points = np.stack([x + w / 2 + w / 2 * np.cos(angles), y + h / 2 + h / 2 * np.sin(angles)], 1)
            outline = points.flatten().tolist()
            found.append(
                {"bbox": [x, y, w, h], "category_id": 7, "segmentation": [outline], "area": float(inside.sum())}
            )
    return pixels, found


def write_coco(root: Path, train: int = 4, val: int = 2, masks: bool = True) -> Path:
    """``annotations/instances_train.json`` and ``_val.json`` with their images."""
    (root / "annotations").mkdir(parents=True)
    for part, count, first in (("train", train, 0), ("val", val, 100)):
        (root / part).mkdir()
        images, annotations = [], []
        for seed in range(first, first + count):
            pixels, found = shapes(seed)
            name = f"{seed:03}.png"
            Image.fromarray(pixels).save(root / part / name)
            images.append({"id": seed, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
            for one in found:
                if not masks:
                    one.pop("segmentation")
                annotations.append(one | {"id": len(annotations) + 1, "image_id": seed, "iscrowd": 0})
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return root


def change(root: Path, part: str, **lists: Any) -> None:
    """Add to the lists of a part's json."""
    file = root / "annotations" / f"instances_{part}.json"
    content = json.loads(file.read_text())
    for name, more in lists.items():
        content[name] += more
    file.write_text(json.dumps(content))
