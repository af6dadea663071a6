"""Draw a small detection data set for experiments: labelled shapes that hide each other, in COCO's layout."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from leanconv.core.atomic import replacing, write_json
from leanconv.core.errors import SettingError
from leanconv.core.settings import check_int

CLASSES = ("disc", "square", "triangle")
CORNERS = {"disc": 24, "square": 4, "triangle": 3}
MOST = 7  # largest number of shapes in a photo
LEAST_SEEN = 0.25  # a shape is labelled if at least this share of its area is visible


def write_shapes(
    folder: str | os.PathLike[str], train: int = 64, val: int = 32, *, size: tuple[int, int] = (120, 160), seed: int = 0
) -> Path:
    """Write `train` and `val` photos with 2 to 7 shapes each, and their labels.

    The label covers the whole shape, also the parts that other shapes hide. Later shapes cover earlier ones. Some shapes are
    placed on other shapes on purpose, so that the occlusion ratios of the photos range from 0 to about 0.8. A shape is not
    labelled if less than a quarter of it is visible.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(path.name for path in write_shapes(folder, train=2, val=1).iterdir())
    ['annotations', 'train', 'val']

    Args:
        folder: a new or empty folder.
        train, val: numbers of photos.
        size: height and width in pixels, at least 32.
        seed: the same seed gives the same photos.

    Returns:
        The folder.

    Raises:
        SettingError: the folder is not empty, or a number is too small.
    """
    root = Path(folder).expanduser()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise SettingError(f"{root} is not an empty folder; choose another folder")
    for name, value, least in (("train", train, 1), ("val", val, 1), ("height", size[0], 32), ("width", size[1], 32)):
        check_int(name, value, least)
    for number, (part, count) in enumerate((("train", train), ("val", val))):
        draw = np.random.default_rng([seed, number])
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            photo, found = _photo(draw, *size)
            name = f"{part}{index:05}.png"
            with replacing(root / part / name) as temporary:
                photo.save(temporary, format="png")
            images.append({"id": index + 1, "file_name": name, "height": size[0], "width": size[1]})
            for one in found:
                annotations.append(one | {"id": len(annotations) + 1, "image_id": index + 1, "iscrowd": 0})
        categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(root / "annotations" / f"instances_{part}.json", content)
    return root


def _photo(draw: np.random.Generator, height: int, width: int) -> tuple[Image.Image, list[dict[str, Any]]]:
    ground = np.linspace(0, 1, width)[None, :, None] * draw.uniform(20, 90, 3) + draw.uniform(20, 90, 3)
    pixels = (ground + draw.normal(0, 10, (height, width, 3))).clip(0, 255).astype(np.uint8)
    photo = Image.fromarray(pixels)
    numbers = Image.new("L", (width, height))  # which shape each pixel shows
    pens = ImageDraw.Draw(photo), ImageDraw.Draw(numbers)
    found: list[dict[str, Any]] = []
    crowding = draw.uniform(0, 1)  # how much this photo's shapes hide each other
    centre = np.zeros(2)
    for _ in range(draw.integers(2, MOST + 1)):
        radius = draw.uniform(0.1, 0.22) * height
        if not found or draw.uniform() > crowding:
            centre = draw.uniform((radius, radius), (width - radius, height - radius))
        else:  # near the shape before, so that it covers a part of that shape
            centre = centre + draw.normal(0, 0.7 * radius, 2)
        label = int(draw.integers(len(CLASSES)))
        outline = _outline(CORNERS[CLASSES[label]], centre, radius, draw.uniform(0, 2 * math.pi), height, width)
        x1, y1 = outline.min(0)
        x2, y2 = outline.max(0)
        if min(x2 - x1, y2 - y1) < 4:  # almost the whole shape is outside
            continue
        colour = tuple(int(value) for value in draw.integers(90, 256, 3))
        points = [(float(x), float(y)) for x, y in outline]
        pens[0].polygon(points, fill=colour, outline=(15, 15, 15))
        pens[1].polygon(points, fill=len(found) + 1)
        found.append({
            "category_id": label + 1, "segmentation": [[round(float(v), 2) for v in outline.flatten()]],
            "bbox": [round(float(v), 2) for v in (x1, y1, x2 - x1, y2 - y1)], "area": round(_area(outline), 2),
        })  # fmt: skip
    seen = np.bincount(np.asarray(numbers).flatten(), minlength=len(found) + 1)[1:]
    return photo, [one for one, pixels in zip(found, seen, strict=True) if pixels >= LEAST_SEEN * one["area"]]


def _outline(corners: int, centre: np.ndarray, radius: float, turn: float, height: int, width: int) -> np.ndarray:
    """The corners of a regular polygon, (corners, 2) as x and y, clipped to the photo."""
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    return points.clip((0, 0), (width, height))


def _area(outline: np.ndarray) -> float:
    x, y = outline.T
    return float(abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2)
