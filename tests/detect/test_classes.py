"""A detector's classes and a data set's meet by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from leanconv.core.errors import SettingError
from leanconv.core.record import Record, set_record
from leanconv.detect import DetectionData, create_detector, open_detection
from leanconv.detect.classes import for_detector, photos_for
from leanconv.detect.train import check_fits

from .sample import write_coco


class Known(nn.Module):
    """Of a detector only what it says of itself."""

    def __init__(self, classes: tuple[str, ...], num_classes: int = 0) -> None:
        super().__init__()
        note = {"classes": list(classes), "num_classes": num_classes or len(classes) + 1}
        set_record(self, Record(detector=note))


def renamed(tmp_path: Path, **names: str) -> DetectionData:
    root = write_coco(tmp_path / "d")
    for part in ("train", "val"):
        file = root / "annotations" / f"instances_{part}.json"
        content = json.loads(file.read_text())
        for category in content["categories"]:
            category["name"] = names.get(category["name"], category["name"])
        file.write_text(json.dumps(content))
    return open_detection(root)


def named(data: DetectionData) -> list[list[str]]:
    return [[data.classes[one.label - 1] for one in photo.instances] for photo in (*data.train, *data.val)]


@pytest.mark.parametrize("known", [("disc", "box"), ("disc", "ring", "box"), ("box", "disc")])
def test_labels_are_the_detectors_of_the_same_name(tmp_path: Path, known: tuple[str, ...]) -> None:
    data = renamed(tmp_path)
    found: Any = for_detector(Known(known), data)  # type: ignore[arg-type]
    assert found.classes == known and named(found) == named(data) and len(set(found.category_ids)) == len(known)
    photos = photos_for(Known(known), data.val)  # type: ignore[arg-type]
    assert [[known[one.label - 1] for one in photo.instances] for photo in photos] == named(data)[len(data.train) :]
    again: Any = for_detector(Known(known), found)  # type: ignore[arg-type]
    assert again == found


def test_other_classes_are_refused_with_both_lists(tmp_path: Path) -> None:
    data = renamed(tmp_path, disc="Disc")
    message = (
        r"has 'Disc', which the network does not have \(is it 'disc'\?\).*'box', 'disc'; the data's: 'box', 'Disc'"
    )
    with pytest.raises(SettingError, match=message):
        for_detector(Known(("box", "disc")), data)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=message):
        photos_for(Known(("box", "disc")), data.val)  # type: ignore[arg-type]


def test_training_needs_all_of_the_detectors_classes(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="has no 'ring'"):
        for_detector(Known(("disc", "ring", "box")), renamed(tmp_path), whole=True)  # type: ignore[arg-type]


def test_without_names_the_count_must_fit(tmp_path: Path) -> None:
    data = renamed(tmp_path)
    assert for_detector(Known((), 3), data) == data  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"has 91 classes with the background, d 3; build it with num_classes=3"):
        check_fits(Known((), 91), data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("classes", "message"),
    [("cat", "must be a sequence of names"), (("cat", "cat"), "'cat' twice"), ((1, 2), "must be a sequence")],
)
def test_class_lists_of_a_detector_are_different_names(classes: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        create_detector("retinanet", "torchvision/resnet18", classes=classes)
