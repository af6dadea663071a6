"""A run recognises its images: a folder of the same name may hold others."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from leanconv.data import open_data
from leanconv.data.fingerprint import FINGERPRINT, NORMALISATION, OBJECTS
from leanconv.data.own import as_images
from leanconv.detect.data import Photo, open_detection
from leanconv.detect.data.masks import as_coco_mask, encode
from leanconv.train.once import difference
from tests.detect.sample import change, write_coco
from tests.experiment.conftest import Listed


def photos(folder: Path, shade: int) -> Path:
    for part, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            place = folder / part / name
            place.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (shade, 10 * index, 0)).save(place / f"{index}.png")
    return folder


def test_a_folder_of_the_same_name_with_other_images(tmp_path: Path) -> None:
    one, other = (photos(tmp_path / fold / "photos", shade) for fold, shade in (("a", 0), ("b", 200)))
    shutil.copytree(one, tmp_path / "c" / "photos")
    found = [open_data(folder).fingerprint for folder in (one, other, tmp_path / "c" / "photos")]
    assert found[0] == found[2] != found[1]


def test_the_labels_count_too(tmp_path: Path) -> None:
    data = open_data(photos(tmp_path / "photos", 0))
    turned = as_images((data.train.relabelled(1 - data.train.labels), data.test))
    assert turned.fingerprint != data.fingerprint == as_images((data.train, data.test)).fingerprint


def test_other_floats_with_equal_labels() -> None:
    class Dark(Listed):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, label = super().__getitem__(index)
            return image * 0, label

    found = [as_images((part(60), part(15))).fingerprint for part in (Listed, Listed, Dark)]
    assert found[0] == found[1] != found[2]


def test_random_transforms_change_nothing_and_draw_nothing() -> None:
    class Noisy(Listed):
        own = np.random.default_rng(0)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, label = super().__getitem__(index)
            return image + torch.rand(()) + random.random() + np.random.rand(), label

    class OwnGenerator(Noisy):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, label = super().__getitem__(index)
            return image + self.own.random(), label

    for kind in (Noisy, OwnGenerator):
        one, again = as_images((kind(60), kind(15))), as_images((kind(60), kind(15)))
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
        assert one.fingerprint == again.fingerprint
        assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
        assert np.random.get_state()[1].tolist() == before[2]  # type: ignore[index]


def test_a_run_of_other_images_is_refused_and_an_older_run_is_not() -> None:
    now = {"data": {"name": "photos", FINGERPRINT: "a", OBJECTS: "c"}}
    for name, said in (
        (FINGERPRINT, "data set of this name had other images"),
        (OBJECTS, "photos of this name had other objects"),
    ):
        assert difference({"data": now["data"] | {name: "b"}}, now) == f"the {said} there"
        older = {key: value for key, value in now["data"].items() if key != name}
        assert difference({"data": older}, now) is None


def test_a_run_of_another_normalisation_is_refused_and_an_older_run_is_not() -> None:
    def of(mean: float) -> dict[str, Any]:
        return {"data": {"name": "photos", NORMALISATION: {"mean": [mean, 0.0], "std": [0.25, 0.2]}}}

    assert difference(of(0.9), of(0.4)) == "data.normalisation.mean is [0.9, 0.0] there and [0.4, 0.0] here"
    assert difference(of(0.4), of(0.40001)) is None, "another machine may decode a file a little differently"
    assert difference({"data": {"name": "photos"}}, of(0.4)) is None


def test_photos_with_other_objects_or_pixels(tmp_path: Path) -> None:
    folders = [write_coco(tmp_path / name / "set") for name in "abcd"]
    more = {"id": 99, "image_id": 100, "category_id": 3, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    change(folders[1], "val", annotations=[more])
    Image.new("RGB", (64, 48)).save(folders[2] / "train" / "000.png")
    found = [open_detection(folder).fingerprint for folder in folders]
    assert len({*found}) == 3 and found[0] == found[3]


def test_photos_with_other_masks_areas_or_borders_between_them(tmp_path: Path) -> None:
    data = open_detection(write_coco(tmp_path / "set"))
    first, second, third, *more = data.train
    one, *others = third.instances

    def digest(*photos: Photo) -> str:
        return replace(data, train=(*photos, *more)).objects_digest

    def with_mask(mask: Any) -> str:
        return digest(first, second, replace(third, instances=(replace(one, segmentation=mask), *others)))

    same = with_mask(as_coco_mask([[float(value) for value in polygon] for polygon in one.segmentation], 48, 64))
    assert same == data.objects_digest == open_detection(write_coco(tmp_path / "copy")).objects_digest
    other = [
        with_mask(as_coco_mask([[1, 1, 9, 1, 9, 9]], 48, 64)),
        with_mask(as_coco_mask([[1, 1, 9, 1, 9, 9]] * 2, 48, 64)),
        with_mask(encode(one.mask(48, 64))),
        with_mask(None),
        digest(first, second, replace(third, instances=(replace(one, area=one.area + 1), *others))),
        digest(first, replace(second, instances=(*second.instances, one)), replace(third, instances=tuple(others))),
    ]
    assert len({same, *other}) == 7 and data.facts()[OBJECTS] == same
