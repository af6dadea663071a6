"""lc.detect.build, fit, evaluate and predict on networks of one's own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import leanconv as lc
from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.detect.job import DetectJob, check_part, part_to_score
from tests.detect.sample import write_coco

SMALL = {"pyramid_channels": 16, "anchor_sizes": (8, 16, 24, 32, 48)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> lc.detect.DetectionData:
    return lc.detect.open_detection(write_coco(tmp_path_factory.mktemp("data") / "shapes"))


def test_a_backbone_that_was_handed_in_stays_as_it_is(photos: lc.detect.DetectionData) -> None:
    backbone = lc.create_model("timm/resnet10t")
    method, where = lc.TiedBlock(2), ("layer*.conv[12]",)
    made = lc.detect.build("retinanet", backbone, classes=photos.classes, method=method, where=where, **SMALL)
    assert lc.plan_of(backbone) is None
    dense = lc.detect.build("retinanet", backbone, classes=photos.classes, **SMALL)
    assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in dense.parameters())


def test_two_backbones_of_one_class_are_two_runs(photos: lc.detect.DetectionData) -> None:
    def of(width: int) -> Any:
        return lambda: torch.nn.Sequential(torch.nn.Conv2d(3, width, 1))

    for named, backbones in (("Sequential", [of(width)() for width in (4, 8)]), ("<lambda>", [of(4), of(8)])):
        jobs = [DetectJob("retinanet", made, None, photos, lc.detect.DetectConfig()) for made in backbones]
        assert jobs[0].identity()["backbone"] == named and jobs[0].identity() != jobs[1].identity()


def test_fit_evaluate_and_predict(photos: lc.detect.DetectionData, tmp_path: Path) -> None:
    config = lc.detect.DetectConfig(
        epochs=1, batch_size=2, warmup_epochs=0, min_size=(40,), max_size=64, lr=0.001, threads=1
    )
    run = lc.detect.fit(
        "retinanet", lambda: lc.create_model("timm/resnet10t"), photos, tmp_path / "run", config, build=SMALL,
        progress=False,
    )  # fmt: skip
    assert run is not None and "parameters" in str(run) and (tmp_path / "run" / "report.html").exists()
    detector = lc.detect.load_detector(tmp_path / "run").eval()
    result = lc.detect.evaluate({"mine": detector}, photos, by="boxes", edges=(0.0, 0.2), threads=1)
    assert result.rows[0]["label"] == "mine" and len(result.tables()) == 2
    assert result.to_json()["settings"]["occlusion"] == "boxes"
    for folders in (tmp_path / "run", str(tmp_path / "run"), [tmp_path / "run"]):
        again = lc.detect.evaluate(folders, photos, by="boxes", edges=(0.0, 0.2), threads=1)
        assert [row["val"] for row in again.rows] == [result.rows[0]["val"]], (
            "one folder, and not the letters of its name"
        )
    with pytest.raises(SettingError, match=r"a detector is named truth, .* rename it, a folder as \./truth"):
        next(lc.detect.predict({"truth": detector}, [photos.val[0].path], data=photos))
    paths = [photos.val[0].path, tmp_path / "run" / "report.html"]
    found = list(lc.detect.predict({"mine": detector}, paths, data=photos, score=0.0, out=tmp_path / "drawn"))
    assert found[0].labelled and found[0].drawn is not None and found[0].drawn.exists()
    assert "error" in found[1].to_json()


def test_a_picture_replaces_no_photo(photos: lc.detect.DetectionData, tmp_path: Path) -> None:
    detector = lc.detect.build("retinanet", "timm/resnet10t", classes=photos.classes, **SMALL, min_size=48, max_size=64)
    own, labelled = (Path(shutil.copy(photos.val[0].path, tmp_path / f"{name}.png")) for name in ("own", "labelled"))
    data = replace(photos, val=(replace(photos.val[0], path=labelled),))
    (tmp_path / "other").mkdir()
    # whose picture would have the name of the labelled one
    other = Path(shutil.copy(own, tmp_path / "other" / "labelled.jpg"))
    before = own.read_bytes()
    for images in ([tmp_path / "own.png"], [other]):
        with pytest.raises(
            SettingError, match=r"the picture .*\.png would replace a photo; give another folder with --out"
        ):
            list(lc.detect.predict({"mine": detector.eval()}, images, data=data, out=tmp_path))
    assert own.read_bytes() == labelled.read_bytes() == before


@pytest.mark.parametrize("crowds", [False, True])
def test_val_without_an_object_is_told_before_the_train_part_is_scored(
    photos: lc.detect.DetectionData, crowds: bool
) -> None:
    crowd = tuple(replace(one, crowd=True) for one in photos.val[0].instances)
    bare = replace(photos, val=tuple(replace(photo, instances=crowd if crowds else ()) for photo in photos.val))
    with pytest.warns(
        LeanconvWarning, match=r"has no object to score \(2 photos; .*evaluated on the train part"
    ) as found:
        check_part(bare)
    assert part_to_score(bare) == "train" and len(found) == 1
    check_part(photos)  # says nothing
