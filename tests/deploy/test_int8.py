"""int8 files: smaller, as good, and never quantised on nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import leanconv as lc
from leanconv.cli import main
from leanconv.core.errors import CheckError, FileError, LeanconvError, LeanconvWarning, SettingError
from leanconv.data import open_data
from leanconv.deploy.formats import FORMATS, _compiled, run_onnx
from leanconv.deploy.int8 import calibration, held_for_check, quantize
from leanconv.deploy.opened import open_exported
from tests.deploy.quick import trained_on
from tests.ops.contract import unsettle_

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, FORMATS["onnx"].packages)),
    reason="onnx, onnxscript or onnxruntime is not installed",
)
openvino = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("openvino", "nncf"))), reason="openvino or nncf is not installed"
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


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A small lean network that is far from chance on digits."""
    torch.manual_seed(0)
    data = open_data("digits")
    dense = lc.create_model("resnet8", width=32, in_chans=1)
    model = lc.convert(dense, lc.plan(dense, lc.TiedBlock(2), exclude="conv1"))
    lc.set_task(model, lc.Task(data.mean, data.std, (8, 8), data.classes))
    return trained_on(model, data, 30)


@openvino
def test_openvino_computes_in_int8_and_keeps_the_metadata(trained: nn.Module, tmp_path: Path):
    data = open_data("digits")
    task = lc.get_task(trained)
    made = quantize(trained, tmp_path / "net", calibration(data, task, 128), runtime="openvino")
    assert {path.name for path in tmp_path.iterdir()} == {
        "net.float32.xml", "net.float32.bin", "net.int8.xml", "net.int8.bin",
    }  # fmt: skip
    weights = [made.float32.path.with_suffix(".bin"), made.path.with_suffix(".bin")]
    assert weights[1].stat().st_size < 0.35 * weights[0].stat().st_size
    kernels = {
        node.get_rt_info()["primitiveType"].astype(str)
        for node in _compiled(made.path).get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) == "Convolution"
    }
    assert any(kernel.endswith("_I8") for kernel in kernels)
    opened = open_exported(made.path)
    assert lc.get_task(opened) == task
    before, after = (lc.evaluate(model, data).top1_pct for model in (trained, opened))
    assert before > 60 and after > before - 3


@openvino
def test_a_weight_that_layers_share_is_quantised_once(tmp_path: Path):
    torch.manual_seed(0)
    dense = nn.Sequential(*(nn.Conv2d(32, 32, 3, padding=1) for _ in range(6)))
    lean = lc.convert(dense, lc.plan(dense, lc.DepthShared(), input_size=(32, 8, 8)))
    made = quantize(lean, tmp_path / "net", [torch.randn(4, 32, 8, 8)], runtime="openvino", form="compact")
    assert 9 * 32 * 32 < made.path.with_suffix(".bin").stat().st_size < 1.1 * 9 * 32 * 32  # one byte for each weight


@openvino
def test_blocks_folded_into_the_batch_keep_the_accuracy_at_a_fixed_size(trained: nn.Module, tmp_path: Path):
    data, task = open_data("digits"), lc.get_task(trained)
    with pytest.warns(LeanconvWarning, match="takes images of 8x8 only"):
        made = quantize(trained, tmp_path / "net", calibration(data, task, 128), runtime="openvino", form="compact")
    opened = open_exported(made.path)
    assert lc.get_task(opened) == task
    before, after = (lc.evaluate(model, data).top1_pct for model in (trained, opened))
    assert before > 60 and after > before - 3
    with pytest.raises(RuntimeError):
        opened(torch.randn(1, 1, 16, 16))


@openvino
def test_outputs_that_depend_on_open_sizes_are_refused(
    trained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from leanconv.deploy import int8_openvino

    def outputs(model: Any, batch: np.ndarray) -> np.ndarray:
        return np.full(3, 1.0 if model.inputs[0].get_partial_shape().is_dynamic else 1.2)

    monkeypatch.setattr(int8_openvino, "_outputs", outputs)
    with pytest.raises(CheckError, match=r"differ by 0\.17 of their norm"):
        quantize(trained, tmp_path / "net", [torch.randn(4, 1, 8, 8)], runtime="openvino")
    assert not (tmp_path / "net.int8.xml").exists()


@openvino
def test_accuracy_control_leaves_layers_in_float32(trained: nn.Module, tmp_path: Path):
    data, task = open_data("digits"), lc.get_task(trained)
    check = held_for_check(data, task, 256, 128)
    images = list(calibration(data, task, 128))
    assert [len(labels) for _, labels in check] == [64] * 4
    assert not {tuple(x.flatten().tolist()) for batch, _ in check for x in batch} & {
        tuple(x.flatten().tolist()) for batch in images for x in batch
    }
    made = quantize(trained, tmp_path / "net", images, runtime="openvino", check=check, max_drop=0.5)

    def right(path: Path) -> float:
        model = open_exported(path)
        return sum(int((model(x).argmax(1) == labels).sum()) for x, labels in check) / 256

    assert right(made.path) >= right(made.float32.path) - 0.005 - 1e-9
    with pytest.raises(SettingError, match=r"max_drop=0\.5 is NNCF's accuracy control"):
        quantize(trained, tmp_path / "onnx", images, max_drop=0.5)
    with pytest.raises(SettingError, match="needs labelled training images"):
        quantize(trained, tmp_path / "none", images, runtime="openvino", max_drop=0.5)
    with pytest.raises(SettingError, match="needs other ones"):
        held_for_check(data, task, 10, len(data.train))


@openvino
def test_the_verbs_take_the_files(trained: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lc.save(trained, tmp_path / "lean")
    out, image = tmp_path / "files", tmp_path / "digit.png"
    Image.new("L", (8, 8), 100).save(image)

    def said(*arguments: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--json"])
        assert end.value.code == 0
        return json.loads(capsys.readouterr().out)

    found = said(
        "quantize",
        str(tmp_path / "lean"),
        "-o",
        str(out),
        "--runtime",
        "openvino",
        "--seconds",
        "0.2",
        "--calibrate",
        "128",
    )
    assert found["runtime"] == "openvino" and [row["name"] for row in found["rows"]] == ["float32", "int8"]
    scores = said("eval", str(out / "lean.int8.xml"))
    assert scores["top1_pct"] == found["rows"][1]["top1_pct"]
    named = said("predict", str(out / "lean.int8.xml"), str(image))
    assert named["images"][0]["labels"][0] in "0123456789"
    with pytest.raises(SystemExit):
        main(["eval", str(out / "none.int8.xml")])
    assert "there is no such file" in capsys.readouterr().err


def test_a_quantised_onnx_file_keeps_its_task(tmp_path: Path):
    made = quantize(network(), tmp_path / "net", [torch.randn(4, 1, 8, 8)])
    assert lc.get_task(open_exported(made.path)) == lc.get_task(network())
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no graph")
    with pytest.raises(FileError, match="cannot be opened"):
        open_exported(damaged)


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=openvino)])
def test_images_without_a_range_are_refused(runtime: Any, tmp_path: Path):
    good = torch.randn(16, 1, 8, 8)
    bad = good.clone()
    bad[3, 0, 0, 0] = float("nan")
    for images, said in (
        ([good, bad], "a calibration image holds NaN or infinity"),
        ([torch.zeros(8, 1, 8, 8)] * 2, "all calibration images are alike, with one value in each channel"),
        ([good, good[0]], r"images come as \(1, 8, 8\)"),
    ):
        with pytest.raises(LeanconvError, match=said):
            quantize(network(), tmp_path / "net", images, runtime=runtime)
    assert not [*tmp_path.glob("*int8*")]


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=openvino)])
def test_images_that_are_not_normalised_are_told(runtime: Any, tmp_path: Path):
    with pytest.warns(
        LeanconvWarning, match=r"of the calibration images' values are far outside .* normalise the images"
    ):
        quantize(network(), tmp_path / "net", [torch.randint(0, 256, (16, 1, 8, 8)).float()], runtime=runtime)
    model = network()
    lc.set_task(model, None)  # nothing is known of its images
    quantize(model, tmp_path / "net", [torch.randint(0, 256, (16, 1, 8, 8)).float()], runtime=runtime)
