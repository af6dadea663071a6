"""Draw detections on their photo, alone or beside those of another detector and the ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from leanconv.analyse.figure import panels as new_panels
from leanconv.core.errors import SettingError
from leanconv.detect.data import Photo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Mark = Literal["found", "false", "truth"]
# the colours of Okabe and Ito, which colour-blind readers can distinguish; vermilion marks false positives
COLOURS = ("#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442")
FALSE = "#D55E00"
PIXELS_AN_INCH = 100
SHORTEST = 320  # smallest width of a drawn photo in pixels; smaller photos are enlarged, so that labels can be read


@dataclass(frozen=True)
class Drawn:
    """One box to draw.

    Args:
        box: x1, y1, x2, y2 in pixels.
        label: class, from 1.
        score: of a detection; None for the ground truth.
        mask: bool (H, W); None without a mask.
        mark: "found" for a detection, "false" for a false positive, "truth" for the ground truth.
    """

    box: tuple[float, ...]
    label: int
    score: float | None = None
    mask: np.ndarray | None = None
    mark: Mark = "found"


def drawn_of(result: Mapping[str, Tensor], least: float = 0.5) -> list[Drawn]:
    """The detections on one photo with a score of at least `least`, for drawing.

    Args:
        result: of a detector, with "boxes", "labels", "scores" and perhaps "masks".
        least: between 0 and 1.

    Raises:
        SettingError: `least` is out of its range.
    """
    if not 0 <= least <= 1:
        raise SettingError(f"score={least} must lie in 0..1")
    masks = result.get("masks")
    found = []
    for place in (result["scores"] >= least).nonzero().flatten().tolist():
        mask = None if masks is None else (masks[place, 0] > 0.5).cpu().numpy()
        box = tuple(result["boxes"][place].tolist())
        found.append(Drawn(box, int(result["labels"][place]), float(result["scores"][place]), mask))
    return found


def truth_of(photo: Photo) -> list[Drawn]:
    """The labelled objects of a photo, for drawing."""
    return [
        Drawn(i.box, i.label, None, None if i.segmentation is None else i.mask(photo.height, photo.width), "truth")
        for i in photo.objects
    ]


def marked(found: Sequence[Drawn], photo: Photo, overlap: float = 0.5) -> list[Drawn]:
    """`found` with the false positives marked, matched as in COCO.

    Detections are matched by falling score. Each object matches at most one detection. A detection in a crowd is not false.

    Args:
        found: the detections on `photo`.
        photo: with its objects.
        overlap: the smallest IoU of two boxes that match.
    """
    ordered = sorted(found, key=lambda one: -(one.score or 0.0))
    taken: set[int] = set()
    done = []
    for one in ordered:
        same = [i for i, instance in enumerate(photo.instances) if instance.label == one.label]
        same.sort(key=lambda i: photo.instances[i].crowd)  # objects first, then crowds
        best, best_overlap = None, overlap
        for i in same:
            instance = photo.instances[i]
            if i in taken:
                continue
            box = torch.tensor([one.box]), torch.tensor([instance.box])
            shared = _inside(one.box, instance.box) if instance.crowd else float(box_iou(*box))
            if shared >= best_overlap and not (instance.crowd and best is not None):
                best, best_overlap = i, shared
        if best is not None and not photo.instances[best].crowd:
            taken.add(best)
        done.append(one if best is not None else replace(one, mark="false"))
    return done


def _inside(box: Sequence[float], crowd: Sequence[float]) -> float:
    """The share of `box` that lies in `crowd`."""
    width = min(box[2], crowd[2]) - max(box[0], crowd[0])
    height = min(box[3], crowd[3]) - max(box[1], crowd[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return max(width, 0.0) * max(height, 0.0) / area if area else 0.0


def draw(image: Tensor, panels: Mapping[str, Sequence[Drawn]], classes: Sequence[str]) -> Figure:
    """A figure with one panel for each title: the photo with the boxes, masks, labels and scores of that panel.

    Args:
        image: (3, H, W) in [0, 1].
        panels: title -> what to draw.
        classes: names of the labels 1, 2, ...
    """
    height, width = image.shape[1:]
    scale = max(1.0, SHORTEST / width)
    inches = width * scale / PIXELS_AN_INCH, height * scale / PIXELS_AN_INCH + 0.35  # with a title above
    figure, axes = new_panels(1, len(panels), *inches)
    pixels = (255 * image.permute(1, 2, 0)).round().to(torch.uint8).cpu().numpy()
    for one, (title, drawn) in zip(axes[0], panels.items(), strict=True):
        one.imshow(_tinted(pixels, drawn), interpolation="nearest")
        one.set_axis_off()
        wrong = sum(box.mark == "false" for box in drawn)
        one.set_title(f"{title}: {len(drawn)}" + (f", {wrong} false" if wrong else ""), fontsize=9, parse_math=False)
        for box in sorted(drawn, key=lambda box: box.score or 0.0):
            _draw(one, box, classes)
    return figure


def name_of(label: int, classes: Sequence[str]) -> str:
    """The name of a label; its number if it has no name.

    >>> name_of(2, ["cat", "dog"]), name_of(3, ["cat", "dog"])
    ('dog', '3')
    """
    return classes[label - 1] if 0 < label <= len(classes) else str(label)


def _colour(one: Drawn) -> str:
    return FALSE if one.mark == "false" else COLOURS[(one.label - 1) % len(COLOURS)]


def _tinted(pixels: np.ndarray, drawn: Sequence[Drawn]) -> np.ndarray:
    """The photo with all masks drawn on it."""
    tinted = pixels.copy()
    for one in drawn:
        if one.mask is not None:
            colour = np.array([int(_colour(one)[place : place + 2], 16) for place in (1, 3, 5)])
            tinted[one.mask] = (0.6 * tinted[one.mask] + 0.4 * colour).astype(np.uint8)
    return tinted


def _draw(axes: Axes, one: Drawn, classes: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    colour = _colour(one)
    x1, y1, x2, y2 = one.box
    line = {"found": "-", "false": "--", "truth": "-"}[one.mark]
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.5, linestyle=line))
    name = name_of(one.label, classes)
    text = name if one.score is None else f"{name} {one.score:.2f}"
    if one.mark == "false":
        text = f"false: {text}"
    box = {"facecolor": colour, "edgecolor": "none", "pad": 1, "alpha": 0.85}
    axes.text(
        x1, y1, text, fontsize=6, color="white", verticalalignment="bottom", bbox=box, clip_on=True, parse_math=False
    )  # fmt: skip
