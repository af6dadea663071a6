"""``leanconv detect``: trained, evaluated and drawn as a user would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import leanconv as lc
from leanconv.detect import create_detector, save_detector
from tests.cli.conftest import one_line
from tests.detect.sample import change, write_coco

SMALL = (
    "--backbone", "timm/resnet10t", "--epochs", 1, "--batch-size", 2, "--min-size", "40,48", "--max-size", 64, "--lr", 0.01,
    "--warmup-epochs", 0, "--pyramid-channels", 16, "--anchor-sizes", "8,16,24,32,48", "--threads", 1,
    "--set", "box_batch_size_per_image=16",
)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "shapes")


def test_train_eval_predict(call: Callable, photos: Path, tmp_path: Path):
    lean = ("--method", "tied_block(blocks=2)", "--where", "layer*.conv[12]")
    lean += ("--frozen-modules", "conv1", "--frozen-modules", "bn1")
    for name, more in (("dense", ()), ("tied", lean)):
        answer = call("detect", "train", "mask_rcnn", "--data", photos, "-o", tmp_path / name, *SMALL, *more)
        assert answer.code == 0, answer.err
        assert "AP75" in answer.out and "parameters" in answer.out
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("dense", "tied")]
    assert summaries[1]["counts"]["backbone_params"] < summaries[0]["counts"]["backbone_params"]
    assert json.loads((tmp_path / "tied" / "run.json").read_text())["build"]["frozen"] == ["conv1", "bn1"]
    assert summaries[0]["val"]["part"] == "val" and set(summaries[0]["val"]["metrics"]) == {"bbox", "segm"}
    page = (tmp_path / "tied" / "report.html").read_text()
    assert "Losses by epoch" in page and "leanconv detect train" in page

    again = call("detect", "train", "mask_rcnn", "--data", photos, "-o", tmp_path / "dense", *SMALL, "--json")
    assert json.loads(again.out) == summaries[0], "a finished run is read back"

    runs = (tmp_path / "dense", tmp_path / "tied")
    answer = call("detect", "eval", *runs, "--data", photos, "--edges", "0,0.2", "--report", tmp_path / "page.html")
    assert answer.code == 0 and "0 <= r < 0.2" in answer.out and "r >= 0.2" in answer.out
    assert "under occlusion" in (tmp_path / "page.html").read_text()
    found = json.loads(call("detect", "eval", *runs, "--data", photos, "--occlusion", "none", "--json").out)
    assert (
        found["rows"][0]["val"]["metrics"] == summaries[0]["val"]["metrics"] and found["rows"][0]["val"]["slices"] == []
    )

    answer = call(
        "detect", "predict", runs[0], photos / "val", "--compare", runs[1], "--data", photos, "--score", 0.01,
        "-o", tmp_path / "drawn", "--json",
    )  # fmt: skip
    said = json.loads(answer.out)
    assert answer.code == 0 and len(said["images"]) == 2 and set(said["images"][0]["found"]) == set(map(str, runs))
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == ["100.png", "101.png"]


def test_mistakes_are_one_line(call: Callable, photos: Path, tmp_path: Path):
    def refused(*words: str, arguments: tuple[object, ...]) -> None:
        answer = call("detect", *arguments)
        assert answer.code == 2 and one_line(answer, *words), answer.err

    out = ("-o", tmp_path / "run")
    refused("no such folder", arguments=("train", "faster_rcnn", "--data", tmp_path / "none", *out))
    refused("detector='yolo' must be one of", arguments=("train", "yolo", "--data", photos, *out, *SMALL))
    refused("--recipe 'x'", "tbc_coco_2x", arguments=("train", "retinanet", "--data", photos, *out, "--recipe", "x"))
    refused("--set 'a'", arguments=("train", "retinanet", "--data", photos, *out, "--set", "a"))
    for assigned, flag in {
        "min_size=64": "--min-size", "seed=1": "--seed", "name='x'": "DETECTOR", "classes=('a',)": "--data",
        "num_classes=7": "--data", "method=1": "--method", "pretrained_backbone=True": "--pretrained",
        "pyramid_channels=8": "--pyramid-channels", "frozen=('conv1',)": "--frozen-modules",
    }.items():  # fmt: skip
        asked = ("train", "retinanet", "--data", photos, *out, *SMALL[:-2], "--set", assigned)
        refused(assigned.partition("=")[0], f"; give {flag}", arguments=asked)
    refused("a is not a setting of retinanet", arguments=("train", "retinanet", "--data", photos, *out, "--set", "a=1"))
    refused(
        "--min-size 'big' must be numbers",
        arguments=("train", "retinanet", "--data", photos, *out, "--min-size", "big"),
    )
    refused("anchor_sizes=(8, 4)", arguments=("train", "retinanet", "--data", photos, *out, "--anchor-sizes", "8,4"))
    none = ("--method", "split", "--where", "x")
    refused("matches none of the 53", arguments=("train", "retinanet", "--data", photos, *out, *none))
    refused("no model.safetensors", arguments=("eval", tmp_path, "--data", photos))
    refused("give --out DIR or --json", arguments=("predict", tmp_path, photos / "val"))
    assert not (tmp_path / "run").exists()
    bad = write_coco(tmp_path / "bad")
    change(bad, "train", annotations=[{"id": 77, "image_id": 0, "category_id": 99, "bbox": [0, 0, 4, 4]}])
    refused("annotation 77: annotation of an unknown category", arguments=(
        "train", "retinanet", "--data", bad, *out, "--on-bad", "refuse",
    ))  # fmt: skip


def test_lean_finds_out_that_a_run_is_a_detector(call: Callable, photos: Path, tmp_path: Path, monkeypatch):
    for name in ("budget.flow.FINAL_SECONDS", "detect.budget.setup.SECONDS"):
        monkeypatch.setattr(f"leanconv.{name}", 0.02)
    torch.manual_seed(0)
    network = lc.create_model("timm/test_resnet")
    sizes = {"min_size": (48,), "max_size": 64, "anchor_sizes": (8, 16, 24, 32, 48), "pyramid_channels": 16}
    made = create_detector("faster_rcnn", network, classes=("box", "disc"), **sizes)
    dense = save_detector(made, tmp_path / "dense")
    flags = (
        "--methods",
        "grouped",
        "--images",
        2,
        "--points",
        2,
        "--recovery-epochs",
        0,
        "--controls",
        "none",
        "--narrowed",
        0,
    )
    asked = ("lean", dense, "--data", photos, "--budget", "macs=0.9", *flags, "-o", tmp_path / "lean", "--threads", 1)
    answer = call(*asked, "--json")
    assert answer.code == 0, answer.err
    rows = json.loads(answer.out)["rows"]
    assert [row["network"] for row in rows] == ["dense", "lean"] and rows[1]["macs"] <= 0.9 * rows[0]["macs"]
    again = call("detect", "eval", tmp_path / "lean", "--data", photos, "--json")
    assert json.loads(again.out)["rows"][0]["val"]["metrics"] == rows[1]["val"]["metrics"]
    for more, words in (
        (("--download",), ("holds a detector, and --download is for classifiers",)),
        (("--runtime", "openvino"), ("runtime='openvino' is for classifiers",)),
    ):
        answer = call(*asked[:-4], "-o", tmp_path / "other", *more)
        assert answer.code == 2 and one_line(answer, *words)
    answer = call("lean", "resnet8", "--pyramid", "--budget", "macs=0.9", "-o", tmp_path / "other")
    assert answer.code == 2 and one_line(answer, "--pyramid is for detectors, and resnet8 holds none")
