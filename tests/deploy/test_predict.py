"""Classes and confidences of image files, equal in every runtime, and what a served file says about them."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import leanconv as lc
from leanconv.cli import main
from leanconv.core.errors import SettingError
from leanconv.core.notes import IMAGENET_MEAN, task_of
from leanconv.deploy.images import files_of, image_tensor
from leanconv.deploy.predict import predict
from tests.gates.tree import ROOT
from tests.ops.contract import unsettle_

TASK = lc.Task((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), (32, 32), ("cat", "dog", "frog"))
BACKENDS = ["pytorch"] + [
    name
    for name, needed in (("onnxruntime", ("onnx", "onnxscript", "onnxruntime")), ("openvino", ("openvino",)))
    if all(map(importlib.util.find_spec, needed))
]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    dense = lc.create_model("resnet8", num_classes=3)
    lean = lc.convert(dense, lc.plan(dense, lc.DepthShared(), exclude="conv1")).eval()
    unsettle_(lean)
    lc.set_task(lean, TASK)
    return lean


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name, shape in (("a.png", (32, 32, 3)), ("b.jpg", (60, 45, 3)), ("more/grey.png", (40, 40))):
        Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes((folder / "b.jpg").read_bytes()[:200])
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_names_the_same(backend: str, network: nn.Module, photos: Path):
    found = list(predict(network, files_of([photos]), TASK, backend=backend, top=2))
    assert [p.path.name for p in found] == ["a.png", "b.jpg", "broken.jpg", "grey.png"]
    assert "broken.jpg" in found[2].error and not found[2].labels
    for p in (found[0], found[1], found[3]):
        with torch.no_grad():
            wanted = network(image_tensor(p.path, TASK)).softmax(1)[0]
        best = wanted.argsort(descending=True)[:2].tolist()
        assert p.labels == tuple(TASK.classes[index] for index in best) and p.error is None
        np.testing.assert_allclose(p.confidences, wanted[best].numpy(), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_in_any_precision_predicts(dtype: torch.dtype, network: nn.Module, photos: Path):
    (found,) = predict(copy.deepcopy(network).to(dtype), [photos / "a.png"], TASK)
    (wanted,) = predict(network, [photos / "a.png"], TASK)
    assert found.labels == wanted.labels
    np.testing.assert_allclose(found.confidences, wanted.confidences, atol=0.02)


class Several(nn.Module):
    """A network with an auxiliary head."""

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main = main

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.main(x), self.main(x)


@pytest.mark.parametrize(
    ("made", "what"), [(Several, "tuple"), (lambda net: nn.Conv2d(3, 3, 1), r"shape \(1, 3, 32, 32\)")]
)
def test_only_scores_of_classes_are_named(
    made: Callable[[nn.Module], nn.Module], what: str, network: nn.Module, photos: Path
):
    plain = lc.Task(TASK.mean, TASK.std, (32, 32))
    with pytest.raises(SettingError, match=f"the network returns {what}; give one that returns a single"):
        list(predict(made(network), [photos / "a.png"], plain))


def test_images_are_prepared_as_for_the_test(photos: Path):
    pixels = torch.from_numpy(np.array(Image.open(photos / "a.png"))).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (TASK.mean, TASK.std))
    torch.testing.assert_close(image_tensor(photos / "a.png", TASK), (pixels - mean) / std)
    grey = lc.Task((0.5,), (0.5,), (8, 8))
    assert image_tensor(photos / "b.jpg", grey).shape == (1, 1, 8, 8)
    with pytest.raises(lc.LeanconvError, match="takes 4 channels"):
        image_tensor(photos / "a.png", lc.Task((0.5,) * 4, (0.5,) * 4, (8, 8)))


def test_from_the_command_line(network: nn.Module, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lc.save(network, tmp_path / "net")
    with pytest.raises(SystemExit) as end:
        main(["predict", str(tmp_path / "net"), str(photos), "--json", "--top", "1"])
    assert end.value.code == 1  # for the one that is broken
    rows = json.loads(capsys.readouterr().out)["images"]
    assert [bool(row["error"]) for row in rows] == [False, False, True, False]
    assert set().union(*(row["labels"] for row in rows)) <= set(TASK.classes)
    (tmp_path / "names").write_text("one\ntwo\n")
    with pytest.raises(SystemExit) as end:
        main(["predict", str(tmp_path / "net"), str(photos / "a.png"), "--labels", str(tmp_path / "names")])
    assert end.value.code == 2
    assert "2 class names for 3 outputs" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["predict", str(tmp_path / "net"), str(tmp_path / "none")])
    assert end.value.code == 2


def test_what_a_network_is_for():
    assert task_of(lc.create_model("timm/resnet18")).mean == IMAGENET_MEAN
    assert task_of(lc.create_model("resnet8")).image_size == (32, 32)
    assert task_of(lc.create_model("resnet8", in_chans=1)).channels == 1
    model = lc.create_model("resnet8")
    lc.set_task(model, TASK)
    assert task_of(model, (3, 64, 48)).image_size == (64, 48) and task_of(model, (3, 64, 48)).classes == TASK.classes
    assert lc.Task.from_json(json.loads(json.dumps(TASK.to_json()))) == TASK
    for settings, match in (
        ({"std": (0.2, 0.0, 0.3)}, "must be above 0"),
        ({"mean": (0.5,)}, "one value for each channel"),
        ({"image_size": (0, 3)}, "each at least 1"),
        ({"classes": (1, 2)}, "must be a sequence"),
        ({"mean": 3}, "must be a sequence"),
    ):
        with pytest.raises(SettingError, match=match):
            lc.Task(**{**TASK.to_json(), **settings})
    with pytest.raises(SettingError, match="must hold mean"):
        lc.Task.from_json({"mean": [1]})


@pytest.mark.skipif("onnxruntime" not in BACKENDS, reason="onnx, onnxscript or onnxruntime is not installed")
def test_served_in_an_environment_of_its_own(network: nn.Module, photos: Path, tmp_path: Path):
    """The example, where neither leanconv nor torch is installed, answers what PyTorch answers."""
    lc.export(network, tmp_path / "net.onnx")
    shutil.copy(ROOT / "examples" / "serve_onnx.py", tmp_path)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    needed = ["onnxruntime", "numpy", "pillow"]
    done = subprocess.run([*install, *needed], capture_output=True, text=True)
    if done.returncode:  # as the Makefile does where uv finds no packages
        install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
        done = subprocess.run([*install, *needed], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    absent = "import importlib.util as u; assert not u.find_spec('torch') and not u.find_spec('leanconv')"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run([python, "-c", absent], check=True, cwd=tmp_path, env=environment)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([python, "serve_onnx.py", "net.onnx", str(port)], cwd=tmp_path, env=environment)
    try:
        answer = None
        until = time.monotonic() + 60  # a busy machine starts it slowly
        while time.monotonic() < until:
            try:
                data = (photos / "a.png").read_bytes()
                with urllib.request.urlopen(f"http://127.0.0.1:{port}", data=data, timeout=10) as reply:
                    answer = json.loads(reply.read())
                break
            except OSError:
                assert server.poll() is None, "the server stopped"
                time.sleep(0.1)
    finally:
        server.kill()
        server.wait()
    (wanted,) = predict(network, [photos / "a.png"], TASK, top=1)
    assert answer is not None and answer["label"] == wanted.labels[0]
    assert answer["confidence"] == pytest.approx(wanted.confidences[0], abs=1e-4)


def test_grey_is_rounded_as_pil_rounds_it(tmp_path: Path):
    draw = np.random.default_rng(0)
    colours = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for name, pixels in (("grey.png", np.arange(256, dtype=np.uint8).reshape(16, 16)), ("colour.png", colours)):
        Image.fromarray(pixels).save(tmp_path / name)
        seen = image_tensor(tmp_path / name, lc.Task((0.0,), (1 / 255,), (16, 16)))[0, 0].round()
        assert np.array_equal(seen.numpy(), np.array(Image.open(tmp_path / name).convert("L")))
