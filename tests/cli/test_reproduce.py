"""reproduce: printed figures beside ours, and a row trained for a moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from leanconv.detect import DetectConfig
from leanconv.detect.recipes import RECIPES
from tests.detect.sample import write_coco

from .conftest import one_line

SCHEMA = Path(__file__).parents[2] / "results" / "schema.json"


def test_a_table_as_json_and_as_text(call: Callable) -> None:
    rows = json.loads(call("reproduce", "spconv", "--table", "4", "--json").out)
    assert len(rows) == 10
    assert {row["verdict"] for row in rows} == {"equal", "truncated"}
    first = rows[0]
    assert (first["printed"], first["unit"], first["network"]) == ("0.10", "M", "spconv_resnet20")
    assert first["ours"] == pytest.approx(0.105082)
    assert first["counted_as"] == "params" and rows[1]["counted_as"] == "early_thop"
    text = call("reproduce", "spconv", "--table", "4").out
    assert "10 printed figures. Counted on our networks: 6 equal, 4 truncated." in text
    assert "branches added, no gate" not in text  # how it is built is in the JSON and in the documents
    assert "spconv_resnet20(fusion=False)" in text


def test_compute_stands_beside_what_is_saved(call: Callable) -> None:
    rows = json.loads(call("reproduce", "spconv", "--table", "1", "--json").out)
    saved = next(row for row in rows if row["row"] == "VGG-16 ratio 1/2, against true VGG-16")
    assert saved["verdict"] == "differs" and "true VGG-16" in saved["row"] and saved["reason"]
    assert 0.3 < saved["macs_ratio"] < 0.4
    assert next(row for row in rows if row["unit"] == "M")["macs_ratio"] is None


def test_a_row_is_trained_and_stands_beside_the_printed_figure(call: Callable, tmp_path: Path) -> None:
    command = ("reproduce", "spconv", "--table", "4", "--train", "P21", "--data", "digits", "--threads", "1")
    answer = call(*command, "--scale", "0.006", "--precision", "bf16", "--out", tmp_path, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    jsonschema.validate(told, json.loads(SCHEMA.read_text()))
    (row,) = told["rows"]
    assert (row["printed"], row["metric"], row["network"]) == ("89.43", "top1", "spconv_resnet20(redundant=False)")
    assert row["ours"] == row["test_top1_pct"] > 5
    assert told["settings"]["train"]["epochs"] == 1
    assert told["settings"]["scale"] == 0.006
    assert (told["settings"]["train"]["schedule"], told["settings"]["train"]["precision"]) == ("step", "bf16")
    assert (
        "89.43" in call(*command, "--scale", "0.006", "--precision", "bf16", "--out", tmp_path).out
    )  # and finished before


def test_a_detector_is_trained_and_stands_beside_the_printed_figures(
    call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = DetectConfig(epochs=1, batch_size=2, warmup_epochs=0, min_size=(64,), max_size=96, lr=0.001, threads=1)
    monkeypatch.setitem(RECIPES, "coco_1x", lambda: small)
    photos = write_coco(tmp_path / "photos", train=2, val=1)
    command = ("reproduce", "spconv", "--table", "3", "--train", "RetinaNet, ratio 1/2")
    assert one_line(call(*command), "trained on coco, which leanconv does not fetch; give --data FOLDER")
    answer = call(*command, "--data", photos, "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    jsonschema.validate(told, json.loads(SCHEMA.read_text()))
    assert [(row["metric"], row["printed"]) for row in told["rows"]] == [
        ("AP50", "56.4"), ("APs", "20.6"), ("APm", "40.4"), ("APl", "47.5"), ("AP", "35.9"),
        ("ARs", "33.4"), ("ARm", "56.8"), ("ARl", "68.1"), ("AR", "52.8"),
    ]  # fmt: skip
    assert all(row["network"] == "spconv_resnet50" and row["backbone_params"] < 17e6 for row in told["rows"])
    assert {row["metric"] for row in told["rows"] if row["ours"] is None} <= {"APs", "APm", "APl", "ARs", "ARm", "ARl"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("spconv", "--table", "99"), "unknown table '99'; there are '1', '2', '3', '4'"),
        (("spconv", "--scale", "0.5"), "for --train ROW (train=ROW) alone: --scale; without it nothing is trained"),
        (
            ("spconv", "--seeds", "3", "--precision", "bf16", "--backbone", "none", "--threads", "1", "--download"),
            "alone: --download, --backbone, --seed and --seeds, --precision, --threads; without",
        ),
        (("spconv", "--seed", "1", "--data-root", "none"), "alone: --data-root, --seed and --seeds; without"),
        (
            ("spconv", "--table", "1", "--train", "*"),
            "rows of the recipes cifar_paper_resnet and cifar_spconv_vgg; name",
        ),
        (("spconv", "--train", "ResNet-9000"), "no printed accuracy is called 'ResNet-9000'"),
        (("spconv", "--train", "ResNet-50 ratio 1/2"), "is trained on imagenet, which leanconv does not fetch"),
        (("spconv", "--train", "P21", "--scale", "0"), "scale=0.0 must be a number above 0"),
    ],
)
def test_refusals(call: Callable, words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    answer = call("reproduce", *words, "--out", tmp_path)
    assert answer.code == 2
    assert one_line(answer, said)
