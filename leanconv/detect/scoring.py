"""The average precision of a detector, overall and under occlusion, with COCO's own evaluation code."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from leanconv.core.errors import DataError, LeanconvWarning, SettingError
from leanconv.core.modes import evaluating
from leanconv.detect.classes import photos_for
from leanconv.detect.data import Photo
from leanconv.detect.data.masks import encode, run_lengths
from leanconv.detect.feed import read_image
from leanconv.detect.occluded import OcclusionBy, occlusion
from leanconv.train.scoring import autocast
from leanconv.train.together import Together

Kind = Literal["bbox", "segm"]
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR", "ARs", "ARm", "ARl")  # COCOeval's order
ALONE = Together()
LITTLE = 0.1  # an occlusion ratio below this counts as almost none
EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Slice:
    """Average precisions on the photos with an occlusion ratio in [low, high), or in [low, 1] if `high` is None.

    Args:
        low, high: see above.
        photos, objects: numbers of photos and of objects in them.
        metrics: AP and AP75 in percent, for "bbox" and "segm"; None if there are no objects.
    """

    low: float
    high: float | None
    photos: int
    objects: int
    metrics: dict[Kind, dict[str, float | None]]


@dataclass(frozen=True)
class Evaluation:
    """The scores of a detector.

    Args:
        photos, objects: numbers of photos and of objects in them.
        metrics: COCO's twelve metrics in percent, for "bbox" and "segm"; None if there are no objects of that size.
        slices: AP and AP75 by occlusion ratio: in bins, and for all photos above each bin edge.
        unread: photos that could not be read. They count as photos without detections.
    """

    photos: int
    objects: int
    metrics: dict[Kind, dict[str, float | None]]
    slices: tuple[Slice, ...] = ()
    unread: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All values, for a JSON file."""
        return {
            "photos": self.photos,
            "objects": self.objects,
            "metrics": self.metrics,
            "slices": [vars(one) for one in self.slices],
            "unread": list(self.unread),
        }


@dataclass
class Detections:
    """The detections of a detector, in COCO's format.

    Args:
        boxes, masks: one dict for each detection; `masks` is empty if the detector has no mask head.
        unread: photos that could not be read.
        has_masks: whether the detector has a mask head.
    """

    boxes: list[dict[str, Any]] = field(default_factory=list)
    masks: list[dict[str, Any]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    has_masks: bool = False


def detect(
    detector: nn.Module,
    photos: Sequence[Photo],
    *,
    precision: str = "fp32",
    progress: Callable[[int], None] | None = None,
) -> Detections:
    """Run `detector` in eval mode on each photo, on the detector's device.

    Args:
        detector: built by `create_detector`.
        photos: what to run on.
        precision: "fp32" or "bf16".
        progress: called with the number of finished photos after each photo.
    """
    found = Detections(has_masks=has_masks(detector))
    for index, (photo, result) in enumerate(_results(detector, photos, precision, found.unread)):
        if result is not None:
            _append(found, photo, result)
        if progress is not None:
            progress(index + 1)
    return found


def has_masks(detector: nn.Module) -> bool:
    """Whether `detector` has a mask head."""
    return getattr(getattr(detector, "roi_heads", None), "mask_head", None) is not None


def evaluate_detector(
    detector: nn.Module,
    photos: Sequence[Photo],
    *,
    precision: str = "fp32",
    by: OcclusionBy | None = None,
    edges: Sequence[float] = EDGES,
    progress: Callable[[int], None] | None = None,
    shared: Together = ALONE,
) -> Evaluation:
    """COCO's average precisions and recalls of `detector` on `photos`.

    Classes are matched by name; their numbers may differ.

    Args:
        detector: built by `create_detector`.
        photos: with their objects.
        precision, progress: see `detect`.
        by: "masks" or "boxes" also evaluates by occlusion ratio, measured on masks or on boxes; None does not.
        edges: the lower edges of the bins of this ratio; the last bin ends at 1.
        shared: the processes that share the photos; each photo is counted once, and all get the same result.

    Raises:
        SettingError: pycocotools is missing, `edges` do not rise, an object has no mask to measure `by`, or the photos have a
            class that the detector does not know.
        DataError: the photos have no object at all.
        LeanconvWarning: by masks, more than half of the photos have a ratio below 0.1, and fewer photos have it by boxes.
    """
    check_request(photos, by, edges)
    photos = photos_for(detector, photos)
    own = detect(detector, photos[shared.rank :: shared.processes], precision=precision, progress=progress)
    return score(_joined(shared.gathered(own), photos), photos, by=by, edges=edges)


def _joined(parts: Sequence[Detections], photos: Sequence[Photo]) -> Detections:
    """The detections of several processes in the order of the photos: COCOeval takes equal scores in their order."""
    if len(parts) == 1:
        return parts[0]
    places = {photo.id: place for place, photo in enumerate(photos)}
    boxes, masks = (
        sorted((one for part in parts for one in getattr(part, name)), key=lambda one: places[one["image_id"]])
        for name in ("boxes", "masks")
    )
    return Detections(boxes, masks, [line for part in parts for line in part.unread], parts[0].has_masks)


def check_request(photos: Sequence[Photo], by: OcclusionBy | None = None, edges: Sequence[float] = EDGES) -> None:
    """Raise the errors of `evaluate_detector` before anything is computed; arguments as there."""
    with _quiet():  # checks that pycocotools is installed
        pass
    if not any(photo.objects for photo in photos):
        raise DataError(f"none of the {len(photos)} photos has an object; there is nothing to evaluate")
    if by not in (None, "masks", "boxes"):
        raise SettingError(f"by={by!r} must be masks, boxes or None")
    without = sum(one.segmentation is None for photo in photos for one in photo.objects)
    if by == "masks" and without:
        raise SettingError(
            f"by='masks' needs a mask of each object, and {without:,} have none; take --occlusion boxes (by='boxes')"
        )
    rise = all(low < high for low, high in pairwise(edges))  # false beside a NaN
    if not edges or not rise or not edges[0] >= 0 or not edges[-1] <= 1:
        raise SettingError(f"edges={tuple(edges)} must rise, from 0 or more to at most 1")


def score(
    detections: Detections, photos: Sequence[Photo], *, by: OcclusionBy | None = None, edges: Sequence[float] = EDGES
) -> Evaluation:
    """The same as `evaluate_detector`, for existing detections.

    Args:
        detections: from `detect`.
        photos, by, edges: see `evaluate_detector`.
    """
    check_request(photos, by, edges)
    objects = sum(len(photo.objects) for photo in photos)
    masks = detections.has_masks and all(i.segmentation is not None for photo in photos for i in photo.instances)
    scorers: dict[Kind, _Scorer] = {"bbox": _Scorer(photos, detections.boxes, "bbox")}
    if masks:
        scorers["segm"] = _Scorer(photos, detections.masks, "segm")
    overall = {kind: scorer.metrics() for kind, scorer in scorers.items()}
    slices: list[Slice] = []
    if by is not None:
        ratios = np.array([occlusion(photo, by) for photo in photos])
        if by == "masks":
            _warn_of_hidden(ratios, np.array([occlusion(photo, "boxes") for photo in photos]))
        bins = [(low, high) for low, high in zip(edges, [*edges[1:], None], strict=True)]
        for low, high in [*bins, *((low, None) for low in edges[:-1])]:
            inside = ratios >= low if high is None else (ratios >= low) & (ratios < high)
            chosen = [photo for photo, is_in in zip(photos, inside, strict=True) if is_in]
            ids = [photo.id for photo in chosen]
            of = {kind: scorer.metrics(ids) for kind, scorer in scorers.items()}
            short = {kind: {name: found[name] for name in ("AP", "AP75")} for kind, found in of.items()}
            slices.append(Slice(low, high, len(chosen), sum(len(photo.objects) for photo in chosen), short))
    return Evaluation(len(photos), objects, overall, tuple(slices), tuple(detections.unread))


def _warn_of_hidden(by_masks: np.ndarray, by_boxes: np.ndarray) -> None:
    """Warn if most photos have almost no occlusion by masks, and fewer by boxes: masks of visible pixels do not overlap."""
    little, of_boxes = (int((ratios < LITTLE).sum()) for ratios in (by_masks, by_boxes))
    if 2 * little > len(by_masks) and of_boxes < little:
        warnings.warn(
            f"{little} of {len(by_masks)} photos have an occlusion ratio below {LITTLE} by masks, and {of_boxes} by boxes; masks "
            "that show only what is visible, such as COCO's, hide occlusion: measure boxes (--occlusion boxes, by='boxes')",
            LeanconvWarning,
            stacklevel=3,
        )


class _Scorer:
    """Runs COCOeval once over all photos, and averages over any subset of them.

    COCOeval matches each image separately, so averages over some images only need the matches of these images. (Images cannot be
    left out with ``ignore``, because COCOeval sets it from ``iscrowd``.)
    """

    def __init__(self, photos: Sequence[Photo], found: list[dict[str, Any]], kind: Kind) -> None:
        from pycocotools.cocoeval import COCOeval

        with _quiet():
            truth = _truth(photos)
            self.evaluation: Any = COCOeval(truth, truth.loadRes(found) if found else _nothing(truth), kind)
            self.evaluation.evaluate()
        params = self.evaluation.params
        self.ids: list[int] = [int(i) for i in params.imgIds]
        # the order is: category, area, image
        self.matches = list(self.evaluation.evalImgs)

    def metrics(self, ids: Sequence[int] | None = None) -> dict[str, float | None]:
        """COCO's twelve metrics in percent, over the images with these ids."""
        one: Any = copy.copy(self.evaluation)
        wanted = set(self.ids if ids is None else ids)
        chosen = [i for i in self.ids if i in wanted]
        keep = np.isin(self.ids, chosen)
        one.params = copy.copy(one.params)
        one.params.imgIds = chosen
        one._paramsEval = copy.copy(one.params)
        one.evalImgs = [match for index, match in enumerate(self.matches) if keep[index % len(self.ids)]]
        if not chosen:
            return dict.fromkeys(METRICS)
        with _quiet():
            one.accumulate()
            one.summarize()
        return {name: None if v < 0 else 100 * float(v) for name, v in zip(METRICS, one.stats, strict=True)}


def _truth(photos: Sequence[Photo]) -> Any:
    """The photos' objects as a COCO object."""
    from pycocotools.coco import COCO

    annotations: list[dict[str, Any]] = []
    labels: set[int] = set()
    for photo in photos:
        for instance in photo.instances:
            x1, y1, x2, y2 = instance.box
            labels.add(instance.label)
            one = {
                "id": len(annotations) + 1, "image_id": photo.id, "category_id": instance.label,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": instance.area, "iscrowd": int(instance.crowd),
            }  # fmt: skip
            if instance.segmentation is not None:
                one["segmentation"] = run_lengths(instance.segmentation, photo.height, photo.width)
            annotations.append(one)
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": photo.id, "height": photo.height, "width": photo.width} for photo in photos],
        "annotations": annotations,
        "categories": [{"id": label} for label in sorted(labels)],
    }
    coco.createIndex()
    return coco


def _nothing(truth: Any) -> Any:
    """An empty set of detections; COCO's loadRes cannot make one."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = truth.dataset | {"annotations": []}
    coco.createIndex()
    return coco


def _results(
    detector: nn.Module, photos: Sequence[Photo], precision: str, unread: list[str]
) -> Iterator[tuple[Photo, dict[str, Tensor] | None]]:
    device = next((parameter.device for parameter in detector.parameters()), torch.device("cpu"))
    with evaluating(detector), torch.inference_mode(), autocast(device, precision):
        for photo in photos:
            try:
                image = read_image(photo)
            except DataError as error:
                unread.append(str(error))
                yield photo, None
                continue
            yield photo, detector([image.to(device)])[0]


def _append(found: Detections, photo: Photo, result: dict[str, Tensor]) -> None:
    boxes = result["boxes"].float().cpu()
    sizes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    labels, scores = result["labels"].tolist(), result["scores"].float().tolist()
    for place, (box, label, confidence) in enumerate(zip(sizes, labels, scores, strict=True)):
        one = {"image_id": photo.id, "category_id": label, "score": confidence}
        found.boxes.append(one | {"bbox": box})
        if found.has_masks:
            mask = (result["masks"][place, 0] > 0.5).cpu().numpy()
            found.masks.append(one | {"segmentation": encode(mask)})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output of pycocotools."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise SettingError("COCO's evaluation needs pycocotools; pip install 'leanconv[coco]'") from error
    with contextlib.redirect_stdout(io.StringIO()):
        yield
