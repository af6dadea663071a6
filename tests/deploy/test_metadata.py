"""Exported files scored as a stranger would: with what stands in their own metadata, and nothing else."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import CheckError, SettingError
from leanconv.core.notes import input_size_of
from leanconv.data import open_data
from leanconv.deploy.formats import FORMATS
from leanconv.timing.runtimes import openvino_core
from leanconv.train.prepared import scores_of, task_on
from tests.deploy.quick import trained_on

HERE = [name for name, kind in FORMATS.items() if all(map(importlib.util.find_spec, kind.packages))]
SUFFIX = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml"}


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network made for 32 pixels and trained on digits at 8: at 32 pixels it is near chance."""
    torch.manual_seed(0)
    data = open_data("digits")
    model = lc.create_model("resnet8", in_chans=1, width=8)
    assert input_size_of(model) == (1, 32, 32)
    task = lc.Task(data.mean, data.std, (8, 8), data.classes)
    lc.set_task(model, task)
    return trained_on(model, data, 60)


def onnx_file(path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, **json.loads(path.with_suffix(".session.json").read_text()))
    name = session.get_inputs()[0].name
    text = session.get_modelmeta().custom_metadata_map["task"]
    return lambda x: session.run(None, {name: x})[0], json.loads(text)


def pt2_file(path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], Any]:
    extra = {"task": ""}
    module = torch.export.load(path, extra_files=extra).module()
    return lambda x: module(torch.from_numpy(x)).detach().numpy(), json.loads(extra["task"])


def openvino_file(path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], Any]:
    core = openvino_core()  # this process's; two at once break its signals
    model = core.read_model(path)
    text = model.get_rt_info(["leanconv", "task"]).astype(str)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: compiled([x])[0], json.loads(text)


READERS = {"onnx": onnx_file, "pt2": pt2_file, "openvino": openvino_file}


def score(to: str, path: Path) -> float:
    """Top-1, % on the digits' test part: the file and its metadata, nothing of leanconv's."""
    run, task = READERS[to](path)
    data = open_data("digits").test
    images = torch.nn.functional.interpolate(
        data.images.float(), task["image_size"], mode="bilinear", antialias=True
    ).numpy()
    mean, std = (np.asarray(task[name], np.float32).reshape(1, -1, 1, 1) for name in ("mean", "std"))
    found = run(((images / 255 - mean) / std).astype(np.float32)).argmax(1)
    names = [task["classes"][index] for index in found]
    return 100 * float(np.mean([name == str(int(label)) for name, label in zip(names, data.labels, strict=True)]))


def evaluated(model: nn.Module) -> float:
    data = open_data("digits")
    return scores_of(model, data, task_on(model, data)).top1_pct


@pytest.mark.parametrize("form", ["compact", "fast"])
@pytest.mark.parametrize("to", [name for name in HERE if name in READERS])
def test_a_file_scores_as_eval_does_through_its_own_metadata(
    to: str, form: str, trained: nn.Module, tmp_path: Path
) -> None:
    lc.export(trained, tmp_path / "net", to=to, form=form)
    wanted = evaluated(trained)
    assert wanted > 60
    assert score(to, tmp_path / f"net{SUFFIX[to]}") == pytest.approx(wanted, abs=0.3)
    resized = lc.Task((0.5,), (0.5,), (32, 32), tuple("0123456789"))
    lc.set_task(trained, resized)
    assert evaluated(trained) < wanted - 20, "the score must depend on the size, or this test says nothing"


@pytest.fixture(autouse=True)
def _task_of_its_own(trained: nn.Module) -> Any:
    task = lc.get_task(trained)
    yield
    lc.set_task(trained, task)


@pytest.mark.parametrize("to", [name for name in HERE if name in READERS])
def test_from_the_command_line_too(to: str, trained: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from leanconv.cli import main

    lc.save(trained, tmp_path / "run")
    with pytest.raises(SystemExit) as end:
        main(["export", str(tmp_path / "run"), "--to", to, "-o", str(tmp_path / "files"), "--form", "fast"])
    assert end.value.code == 0
    assert score(to, tmp_path / "files" / f"run{SUFFIX[to]}") == pytest.approx(evaluated(trained), abs=0.3)


@pytest.mark.skipif("onnx" not in HERE, reason="onnx is not installed")
def test_an_int8_file_too(trained: nn.Module, tmp_path: Path) -> None:
    from leanconv.deploy.int8 import calibration, quantize

    data = open_data("digits")
    made = quantize(trained, tmp_path / "net", calibration(data, task_on(trained, data), 256))
    assert score("onnx", made.float32.path) == pytest.approx(evaluated(trained), abs=0.3)
    assert score("onnx", made.path) == pytest.approx(evaluated(trained), abs=5)


def test_weights_alone_hold_the_task(trained: nn.Module, tmp_path: Path) -> None:
    lc.export(trained, tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert json.loads(file.metadata()["task"])["image_size"] == [8, 8]


def test_what_a_network_was_trained_for_comes_before_what_it_was_made_for(trained: nn.Module) -> None:
    assert input_size_of(trained) == (1, 8, 8)
    assert input_size_of(torch.optim.swa_utils.AveragedModel(trained)) == (1, 8, 8)
    assert lc.count(trained).macs == lc.count(trained, (1, 8, 8)).macs < lc.count(trained, (1, 32, 32)).macs
    assert lc.summary(trained, latency=False).input_size == (1, 8, 8)
    fresh = lc.create_model("resnet8", in_chans=1, width=8)
    assert input_size_of(fresh) == (1, 32, 32)


class OneSize(nn.Module):
    """A constant of its first input's size: elsewhere it fails."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).flatten(1))


class Bakes(nn.Module):
    """Python's own arithmetic on the size: an exporter that holds it for a constant writes a file that is wrong elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) * float(
            torch.tensor(x.shape[2]).item() if not torch.compiler.is_exporting() else 8
        )


@pytest.mark.parametrize("to", [name for name in HERE if name in READERS])
@pytest.mark.parametrize("network", [OneSize, Bakes])
def test_a_file_for_one_size_says_so_and_takes_no_other(network: type[nn.Module], to: str, tmp_path: Path) -> None:
    model = network().eval()
    lc.set_task(model, lc.Task((0.5,), (0.5,), (16, 16), tuple("0123456789")))
    found = lc.export(model, tmp_path / "net", to=to, example=torch.randn(2, 1, 8, 8))
    assert found.any_size is False and found.max_error is not None and found.max_error < 1e-4
    run, task = READERS[to](found.path)
    assert task["image_size"] == [8, 8], "the size that the file takes"
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        np.testing.assert_allclose(run(x.numpy()), model(x).numpy(), atol=1e-4)
    with pytest.raises(Exception, match=r"."):
        run(np.zeros((1, 1, 24, 24), np.float32))


class Special(nn.Module):
    """A small network with other outputs than scores."""

    def __init__(self, what: str) -> None:
        super().__init__()
        first = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.what, self.body = what, nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.what == "booleans":
            return y > 0
        if self.what == "classes":
            return y.argmax(1)
        if self.what == "noise":
            return y + torch.randn_like(y)
        value = {"nan": float("nan"), "infinity": float("inf"), "-infinity": float("-inf")}[self.what]
        return torch.cat([y, torch.full((x.shape[0], 1), value)], 1)


@pytest.mark.parametrize("form", ["compact", "fast"])
@pytest.mark.parametrize("to", HERE)
@pytest.mark.parametrize("what", ["nan", "infinity", "-infinity", "booleans", "classes"])
def test_outputs_that_are_not_finite_or_not_floating(what: str, to: str, form: str, tmp_path: Path) -> None:
    found = lc.export(Special(what).eval(), tmp_path / "net", to=to, form=form, example=torch.randn(2, 1, 16, 16))
    assert found.max_error is not None and found.max_error < 1e-4


def test_a_random_network_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Special itself gives another output each time"):
        lc.export(Special("noise").eval(), tmp_path / "net.pt2", example=torch.randn(2, 1, 16, 16))
    assert not list(tmp_path.iterdir())


def test_small_outputs_are_compared_as_closely_as_large_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities of 1e-6 that are off by a tenth: 1e-7 is not little there."""
    from leanconv.deploy import formats

    class Small(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 1e-6

    honest = FORMATS["pt2"]
    wrong = formats.Format(
        honest.files, (), honest.write, lambda path, model: lambda x: honest.run(path, model)(x) * 1.1, honest.loaded
    )
    model, x = Small(nn.Conv2d(1, 4, 3)).eval(), torch.randn(2, 1, 8, 8)
    assert lc.export(model, tmp_path / "right.pt2", example=x).max_error < 1e-9
    monkeypatch.setitem(formats.FORMATS, "pt2", wrong)
    with pytest.raises(CheckError, match="differs from PyTorch"):
        lc.export(model, tmp_path / "net.pt2", example=x)
