"""int8 files: smaller, as good, and never quantised on nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.cli import main
from leanconv.core.errors import SettingError
from leanconv.data import open_data
from leanconv.deploy.formats import FORMATS, run_onnx
from leanconv.deploy.int8 import calibration, quantize
from tests.ops.contract import unsettle_

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, FORMATS["onnx"].packages)),
    reason="onnx, onnxscript or onnxruntime is not installed",
)


def network(width: int = 32) -> nn.Module:
    torch.manual_seed(0)
    dense = lc.create_model("resnet8", width=width, in_chans=1)
    lean = lc.convert(dense, lc.plan(dense, lc.TiedBlock(2), exclude="conv1")).eval()
    unsettle_(lean)
    lc.set_task(lean, lc.Task((0.3,), (0.4,), (8, 8), tuple("0123456789")))
    return lean


def test_weights_take_a_byte_and_outputs_stay_near(tmp_path: Path):
    lean = network()
    images = [torch.randn(16, 1, 8, 8) for _ in range(4)]
    made = quantize(lean, tmp_path / "net", images, example=images[0])
    assert {path.name for path in tmp_path.iterdir()} == {
        "net.float32.onnx", "net.float32.session.json", "net.int8.onnx", "net.int8.session.json",
    }  # fmt: skip
    assert made.file_bytes < 0.5 * made.float32.file_bytes
    with torch.no_grad():
        wanted = lean(images[0])
    found = run_onnx(made.path)(images[0])
    assert float((found - wanted).norm() / wanted.norm()) < 0.1
    assert not torch.equal(found, run_onnx(made.float32.path)(images[0]))


def test_ranges_come_from_training_images(tmp_path: Path):
    data = open_data("digits")
    task = lc.Task(data.mean, data.std, (8, 8), data.classes)
    batches = list(calibration(data, task, 100))
    assert [len(batch) for batch in batches] == [64, 36]
    shown = {tuple(image.flatten().tolist()) for batch in batches for image in batch}
    mean, std = data.mean[0], data.std[0]
    train = {tuple(((image / 255 - mean) / std).flatten().tolist()) for image in data.train.images}
    near = {tuple(round(v, 3) for v in image) for image in train}
    assert all(tuple(round(v, 3) for v in image) in near for image in shown)
    with pytest.raises(SettingError, match="images is empty"):
        quantize(network(), tmp_path / "net", [])
    assert not (tmp_path / "net.int8.onnx").exists()


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lc.save(network(), tmp_path / "lean")
    with pytest.raises(SystemExit) as end:
        main(["quantize", str(tmp_path / "lean"), "-o", str(tmp_path / "files"), "--seconds", "0.2", "--json"])
    assert end.value.code == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == ["float32", "int8"]
    assert all(row["n"] == 355 and 0 <= row["top1_pct"] <= 100 and row["latency"]["median_ms"] > 0 for row in rows)
    assert rows[1]["file_bytes"] < rows[0]["file_bytes"]
