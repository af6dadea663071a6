"""COCO's evaluation against a case computed by hand, and under occlusion against a brute-force one."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from leanconv.core.errors import DataError, LeanconvWarning, SettingError
from leanconv.detect import Instance, Photo, occlusion
from leanconv.detect.data.masks import encode
from leanconv.detect.scoring import EDGES, METRICS, Detections, _append, evaluate_detector, score
from leanconv.train.together import Together

IOUS = np.arange(0.5, 1.0, 0.05)
RECALLS = np.linspace(0, 1, 101)


def photo(number: int, *boxes: tuple[float, ...], crowd: tuple[bool, ...] = (), label: int = 1) -> Photo:
    crowds = crowd or (False,) * len(boxes)
    instances = [
        Instance(box, label, (box[2] - box[0]) * (box[3] - box[1]), crowd=c)
        for box, c in zip(boxes, crowds, strict=True)
    ]
    return Photo(number, Path("none"), 100, 100, tuple(instances))


def with_masks(one: Photo) -> Photo:
    """The photo with its filled boxes as masks."""
    return replace(one, instances=tuple(replace(i, segmentation=encode(i.mask(100, 100))) for i in one.instances))


def found(*lines: tuple[int, tuple[float, ...], float], label: int = 1) -> Detections:
    """(photo, corners, score) of one class."""
    boxes = [
        {"image_id": i, "category_id": label, "score": s, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for i, (x1, y1, x2, y2), s in lines
    ]
    return Detections(boxes)


def test_it_is_what_one_computes_by_hand():
    """Right, wrong, right: precision 1 up to a recall of 1/2, and 2/3 from there on."""
    photos = [photo(1, (10, 10, 50, 50)), photo(2, (20, 20, 80, 90))]
    result = score(
        found((1, (10, 10, 50, 50), 0.9), (1, (60, 60, 99, 99), 0.8), (2, (20, 20, 80, 90), 0.7)), photos
    ).metrics["bbox"]
    by_hand = 100 * (51 * 1 + 50 * 2 / 3) / 101
    assert result["AP"] == pytest.approx(by_hand) and result["AP50"] == pytest.approx(by_hand)
    assert result["AR"] == pytest.approx(100) and result["APs"] is None and tuple(result) == METRICS
    # an overlap of 0.8: right up to a threshold of 0.8, seven of ten
    shifted = score(found((1, (10, 10, 50, 42), 0.9)), photos[:1]).metrics["bbox"]
    assert shifted["AP"] == pytest.approx(70) and shifted["AP75"] == pytest.approx(100)


def test_masks_are_compared_as_masks():
    """The box is right and the mask half of it."""
    mask = np.zeros((100, 100), dtype=bool)
    mask[10:50, 10:50] = True
    half = mask.copy()
    half[:, 30:] = False
    one = Photo(1, Path("none"), 100, 100, (Instance((10, 10, 50, 50), 1, 1600.0, encode(mask)),))
    detections = found((1, (10, 10, 50, 50), 0.9))
    detections.has_masks = True
    detections.masks = [{"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": encode(half)}]
    metrics = score(detections, [one]).metrics
    assert metrics["bbox"]["AP"] == pytest.approx(100) and metrics["segm"]["AP"] == pytest.approx(10)


def test_masks_of_visible_pixels_are_warned_of():
    """The front object hides the other half of the second: the masks do not overlap, the boxes do."""
    front, behind = np.zeros((2, 100, 100), dtype=bool)
    front[10:50, 10:40] = True
    behind[10:50, 40:60] = True  # of the box from 20 to 60
    instances = (
        Instance((10, 10, 40, 50), 1, 1200.0, encode(front)),
        Instance((20, 10, 60, 50), 1, 800.0, encode(behind)),
    )
    hidden = [Photo(number, Path("none"), 100, 100, instances) for number in (1, 2)]
    with pytest.warns(
        LeanconvWarning, match=r"2 of 3 photos have an occlusion ratio below 0.1 by masks, and 0 by boxes"
    ):
        score(Detections(), [*hidden, with_masks(photo(3, (10, 10, 50, 50), (10, 10, 50, 50)))], by="masks")
    score(Detections(), hidden, by="boxes")  # warnings are errors here
    alone = [with_masks(photo(number, (10, 10, 50, 50))) for number in (1, 2)]
    score(Detections(), alone, by="masks")  # nothing overlaps at all


def overlap(a: tuple[float, ...], b: tuple[float, ...], crowd: bool) -> float:
    inside = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return inside / (area_a if crowd else area_a + area_b - inside)


def brute_force(detections: Detections, photos: list[Photo], least: float) -> float | None:
    """Average precision at one overlap, over classes, written from COCO's definition."""
    labels = sorted({i.label for p in photos for i in p.objects})
    averages = []
    for label in labels:
        scored: list[tuple[float, bool]] = []
        total = 0
        for one in photos:
            truth = [i for i in one.instances if i.label == label]
            total += sum(not i.crowd for i in truth)
            own = [d for d in detections.boxes if d["image_id"] == one.id and d["category_id"] == label]
            taken: set[int] = set()
            for d in sorted(own, key=lambda d: -d["score"])[:100]:
                x, y, w, h = d["bbox"]
                box = (x, y, x + w, y + h)
                free = [(overlap(box, i.box, False), k) for k, i in enumerate(truth) if not i.crowd and k not in taken]
                best = max(free, default=(0.0, -1))
                if best[0] >= least:
                    taken.add(best[1])
                    scored.append((d["score"], True))
                elif not any(i.crowd and overlap(box, i.box, True) >= least for i in truth):
                    scored.append((d["score"], False))
        scored.sort(key=lambda pair: -pair[0])
        right = np.cumsum([hit for _, hit in scored]) if scored else np.zeros(0)
        precision = right / np.arange(1, len(scored) + 1)
        recall = right / total
        averages.append(np.mean([max(precision[recall >= r], default=0.0) for r in RECALLS]))
    return 100 * float(np.mean(averages)) if averages else None


def test_under_occlusion_it_is_the_brute_force_one():
    draw = np.random.default_rng(0)
    photos, lines = [], []
    for number in range(40):
        corners = []
        for _ in range(draw.integers(1, 6)):
            x, y = draw.integers(0, 60, 2)
            w, h = draw.integers(15, 40, 2)
            corners.append((float(x), float(y), float(x + w), float(y + h)))
        label = int(draw.integers(1, 3))
        crowd = tuple(bool(draw.random() < 0.1) and k > 0 for k in range(len(corners)))
        photos.append(photo(number, *corners, crowd=crowd, label=label))
        for box in corners:
            moved = tuple(float(v + draw.normal(0, 3)) for v in box)
            if draw.random() < 0.8 and moved[2] > moved[0] and moved[3] > moved[1]:
                lines.append((number, label, moved))
        if draw.random() < 0.7:
            lines.append((number, int(draw.integers(1, 3)), (1.0, 1.0, 30.0, 30.0)))
    scores = draw.permutation(len(lines)) / len(lines)
    boxes = [
        {"image_id": i, "category_id": c, "score": float(s), "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]]}
        for (i, c, b), s in zip(lines, scores, strict=True)
    ]
    detections = Detections(boxes)
    result = score(detections, photos, by="boxes")
    ratios = [occlusion(p, "boxes") for p in photos]
    compared = 0
    for part in result.slices:
        inside = [
            p for p, r in zip(photos, ratios, strict=True) if r >= part.low and (part.high is None or r < part.high)
        ]
        assert (part.photos, part.objects) == (len(inside), sum(len(p.objects) for p in inside))
        every = [brute_force(detections, inside, least) for least in IOUS]
        expected = None if every[0] is None else float(np.mean(every))
        metrics = part.metrics["bbox"]
        assert metrics["AP"] == (None if expected is None else pytest.approx(expected, abs=1e-6))
        assert metrics["AP75"] == (None if expected is None else pytest.approx(brute_force(detections, inside, 0.75)))
        compared += expected is not None
    assert compared > 12 and result.slices[-len(EDGES) + 1].photos == 40
    assert result.metrics["bbox"]["AP"] == pytest.approx(
        np.mean([brute_force(detections, photos, least) for least in IOUS])
    )
    assert sum(part.photos for part in result.slices if part.high is not None or part.low == EDGES[-1]) == 40


def test_nothing_found_and_nothing_to_find():
    photos = [with_masks(photo(1, (10, 10, 50, 50)))]
    nothing = score(Detections(), photos, by="masks").metrics["bbox"]
    assert nothing["AP"] == 0 and nothing["AR"] == 0
    with pytest.raises(DataError, match="nothing to evaluate"):
        score(Detections(), [photo(1)])
    for edges in ((0.5, 0.1), (0.1, 0.1), (0.0, math.nan), (math.nan,), (-0.1,), (0.5, 1.1), ()):
        with pytest.raises(SettingError, match=rf"edges={re.escape(str(edges))} must rise"):
            score(Detections(), photos, by="masks", edges=edges)
    many = found(*((1, (k % 20, 0, 50 + k % 30, 50), k / 300) for k in range(300)))
    assert score(many, photos).metrics["bbox"]["AR"] > 0


def test_occlusion_by_masks_needs_a_mask_of_each_object():
    """A crowd region has no part in it."""
    full = with_masks(photo(1, (10, 10, 50, 50)))
    crowd = replace(photo(2, (5, 5, 9, 9)).instances[0], crowd=True)
    score(Detections(), [replace(full, instances=(*full.instances, crowd))], by="masks")
    with pytest.raises(
        SettingError, match=r"by='masks' needs a mask of each object, and 2 have none; take --occlusion boxes"
    ):
        score(Detections(), [full, photo(2, (10, 10, 50, 50), (20, 20, 80, 90))], by="masks")


def test_a_mask_is_where_its_probability_is_over_a_half():
    from pycocotools.mask import decode

    one = photo(7, (0, 0, 4, 4))
    probabilities = torch.tensor([[0.4, 0.5, 0.6, 0.95]]).reshape(1, 1, 1, 4)
    result = {
        "boxes": torch.tensor([[0.0, 0.0, 4.0, 1.0]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.5]),
        "masks": probabilities,
    }  # fmt: skip
    detections = Detections(has_masks=True)
    _append(detections, one, result)
    assert decode(detections.masks[0]["segmentation"]).tolist() == [[0, 0, 1, 1]]
    assert detections.boxes[0] == {"image_id": 7, "category_id": 1, "score": 0.5, "bbox": [0.0, 0.0, 4.0, 1.0]}


class Seen(torch.nn.Module):
    """Finds in each photo what its number says, with equal scores in different photos; notes the photos."""

    classes = ("thing",)

    def __init__(self) -> None:
        super().__init__()
        self.photos: list[int] = []

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        number = int(images[0][0, 0, 0] * 255 + 0.5)
        self.photos.append(number)
        boxes = torch.tensor([[10.0, 10, 40 + number, 50], [5, 5, 20, 20 + number]])
        return [{"boxes": boxes, "labels": torch.tensor([1, 1]), "scores": torch.tensor([0.8, 0.8 - number % 2 / 2])}]


class Parts(Together):
    """Each process of three, one after the other in this one: it answers with what all of them found."""

    found: dict[int, list[Detections]] = {}

    def gathered(self, value: Detections) -> list[Detections]:
        own = self.found.setdefault(self.processes, [])
        own.append(value)
        return own


def test_processes_share_the_photos_and_give_the_result_of_one(monkeypatch: pytest.MonkeyPatch):
    def read(photo: Photo) -> torch.Tensor:
        if photo.id == 4:
            raise DataError("no photo 4")
        return torch.full((3, 100, 100), photo.id / 255)

    monkeypatch.setattr("leanconv.detect.scoring.read_image", read)
    monkeypatch.setattr("leanconv.detect.scoring.photos_for", lambda detector, photos: photos)
    photos = [photo(number, (10, 10, 40, 50), (60, 60, 90, 90)) for number in (3, 1, 2, 7, 4, 6, 5)]
    alone = evaluate_detector(Seen(), photos, by="boxes")
    detector = Seen()
    for rank in range(3):
        shared = evaluate_detector(detector, photos, by="boxes", shared=Parts(rank, 3))
    assert sorted(detector.photos) == [1, 2, 3, 5, 6, 7], "each photo once"
    assert shared == alone and alone.unread == ("no photo 4",)
