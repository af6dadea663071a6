"""A file that says any size is right at any size, and an export replaces and leaves behind only what it should."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import leanconv as lc
from leanconv.core.errors import CheckError, SettingError
from leanconv.deploy import export as exporting
from leanconv.deploy import formats, int8
from leanconv.deploy.int8 import quantize
from leanconv.deploy.predict import runner
from leanconv.deploy.ranges import Shown
from leanconv.deploy.sizes import beyond

HERE = [
    name
    for name, kind in formats.FORMATS.items()
    if name != "state-dict" and all(importlib.util.find_spec(needed) for needed in kind.packages)
]


class Small(nn.Module):
    """Enlarges small images first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < 32:
            x = F.interpolate(x, scale_factor=2.0) * 1.5
        return self.fc(self.conv(x).relu().mean((2, 3)))


class Turn(Small):
    """Turns landscape images."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[3] > x.shape[2]:
            x = x.transpose(2, 3)
        return self.fc(self.conv(x).relu().mean((2, 3)))


class Area(Small):
    """Halves large images."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] * x.shape[3] > 100 * 100:
            x = F.avg_pool2d(x, 2)
        return self.fc(self.conv(x).relu().mean((2, 3)))


WAYS = {
    Small: ((2, 3, 64, 64), (1, 3, 16, 16)),
    Turn: ((2, 3, 32, 32), (1, 3, 32, 48)),
    Area: ((2, 3, 32, 32), (1, 3, 128, 128)),
}


@pytest.mark.parametrize("to", HERE)
@pytest.mark.parametrize("network", WAYS)
def test_a_file_gives_no_wrong_output_at_another_size(network: type[nn.Module], to: str, tmp_path: Path) -> None:
    model, (own, other) = network().eval(), WAYS[network]
    found = lc.export(model, tmp_path / "net", to=to, example=torch.randn(own))
    assert found.any_size is False or to == "pt2"  # a loaded program checks sizes itself
    x = torch.randn(other)
    with pytest.raises(Exception):  # noqa: B017, PT011  each runtime has its own
        formats.FORMATS[to].run(found.path, model)(x)


def test_sizes_beyond_a_comparison_are_found() -> None:
    found = beyond(lambda shape: "area" if shape[2] * shape[3] > 10_000 else None, 3, (32, 32))
    assert len(found) == 1 and found[0][0] == (128, 128)


class Casts(Small):
    """Cannot run in float64, and has small outputs."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()) * 1e-5


def test_small_outputs_must_be_right_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = formats.FORMATS["pt2"]
    wrong = formats.Format(
        honest.files, (), honest.write, lambda path, model: lambda x: honest.run(path, model)(x) * 1.15, honest.loaded
    )
    monkeypatch.setitem(formats.FORMATS, "pt2", wrong)
    with pytest.raises(CheckError, match="differs from PyTorch"):
        lc.export(Casts(), tmp_path / "net.pt2", example=torch.randn(2, 3, 32, 32))


def test_what_is_no_export_is_kept(tmp_path: Path) -> None:
    model, example = Small(), torch.randn(1, 3, 32, 32)
    lc.save(model, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(SettingError, match=r"model\.safetensors is a network that leanconv\.save wrote.*another name"):
        lc.export(model, tmp_path / "model", to="state-dict", example=example)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    lc.export(model, tmp_path / "net.safetensors", example=example)
    lc.export(model, tmp_path / "net.safetensors", example=example)  # an export is replaced
    if "openvino" in HERE:
        (tmp_path / "mine.bin").write_text("mine")
        with pytest.raises(SettingError, match=r"mine\.bin stands without mine\.xml"):
            lc.export(model, tmp_path / "mine.xml", example=example)
        assert (tmp_path / "mine.bin").read_text() == "mine"


def test_mistakes_are_seen_before_the_work(tmp_path: Path) -> None:
    model, example = Small(), torch.randn(1, 3, 32, 32)
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "file").touch()
    cases = {
        r"folder\.pt2 is a folder": {"path": tmp_path / "folder.pt2"},
        r"file cannot be a folder": {"path": tmp_path / "file" / "net.pt2"},
        r"to=\['pt2'\] must be one of": {"to": ["pt2"]},
        r"images is or holds a str": {"images": "photos"},
        r"images is or holds a tensor \(3, 8, 8\)": {"images": [torch.zeros(3, 8, 8)]},
        r"'conv\.weight' is on the meta device": {"model": Small().to("meta")},
    }
    for reason, given in cases.items():
        with pytest.raises(SettingError, match=reason):
            lc.export(**{"model": model, "path": tmp_path / "net.pt2", "example": example} | given)  # type: ignore[arg-type]
    assert {path.name for path in tmp_path.iterdir()} == {"folder.pt2", "file"}


class Tied(nn.Module):
    """Two layers whose weights are two parameters in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.b.weight.data = self.a.weight.data

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()).mean((2, 3))


@pytest.mark.parametrize("to", [name for name in HERE if name != "openvino"])
def test_weights_that_share_memory_are_written_once(to: str, tmp_path: Path) -> None:
    found = lc.export(Tied(), tmp_path / "net", to=to, example=torch.randn(1, 32, 8, 8))
    assert found.unique_bytes == 4 * (32 * 32 * 9 + 64)
    assert found.file_bytes < 1.9 * found.unique_bytes  # twice the weight would be more
    assert found.loaded_bytes is not None and found.loaded_bytes < 1.5 * found.unique_bytes


def test_one_image_is_measured_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = exporting.optimize

    def spy(model: nn.Module, example: Tensor, **settings: Any) -> nn.Module:
        seen.append(example.shape)
        return real(model, example, **settings | {"measured": False})

    monkeypatch.setattr(exporting, "optimize", spy)
    lc.export(Small(), tmp_path / "net.pt2", form="measured", example=torch.randn(1, 3, 32, 32))
    assert seen == [(1, 3, 32, 32)]


def test_random_numbers_stay_as_they_are(tmp_path: Path) -> None:
    big = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    lean = lc.convert(big, lc.plan(big, lc.TiedBlock(2)), "fit")
    before = torch.get_rng_state()
    lc.export(lean, tmp_path / "net.safetensors", example=torch.ones(1, 4, 8, 8))
    lc.optimize(lean.eval(), torch.ones(1, 4, 8, 8), cache=None)
    assert torch.equal(torch.get_rng_state(), before)


needs_onnx = pytest.mark.skipif("onnx" not in HERE, reason="needs ONNX Runtime")


@needs_onnx
def test_a_quantisation_that_fails_keeps_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = Small().eval(), [torch.randn(4, 3, 16, 16)]
    before = torch.get_rng_state()
    made = quantize(model, tmp_path / "net", images)
    assert torch.equal(torch.get_rng_state(), before)
    assert made.path.exists() and made.float32.path.exists()
    held = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    nn.init.zeros_(model.fc.weight)
    monkeypatch.setattr(int8, "quantize_file", lambda *_: (_ for _ in ()).throw(RuntimeError("no room")))
    with pytest.raises(RuntimeError, match="no room"):
        quantize(model, tmp_path / "net", images)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == held


@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="needs nncf")
def test_the_log_level_of_nncf_comes_back() -> None:
    from leanconv.deploy.int8_openvino import _nncf

    with _nncf():
        pass
    logger = logging.getLogger("nncf")
    logger.setLevel(logging.INFO)
    with _nncf():
        assert logger.level == logging.ERROR
    assert logger.level == logging.INFO


IMAGES = torch.randn(2, 3, 4, 4)


@pytest.mark.parametrize(
    "given",
    [
        IMAGES.double(),
        IMAGES.bfloat16(),
        IMAGES.clone().requires_grad_(),
        IMAGES.numpy(),
        (IMAGES, torch.zeros(2)),
        [IMAGES, 1],
    ],
)
def test_calibration_takes_batches_as_loaders_give_them(given: object) -> None:
    (batch,) = Shown([given], None)
    assert batch.dtype == torch.float32 and not batch.requires_grad
    assert torch.allclose(batch, IMAGES, atol=0.05)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "images is a NoneType; give batches"),
        ("photos", "images is a str; give batches"),
        (["photo.png"], "images holds a str; give batches"),
        (IMAGES, r"images come as \(3, 4, 4\)"),
        (
            [(IMAGES * 50).to(torch.uint8)],
            r"images come as torch\.uint8; give them as the network takes them, normalised",
        ),
        ([IMAGES, IMAGES[:, :1]], "images come with 3 channels, and then with 1"),
        ([np.zeros((2, 3, 4, 4), np.int64)], r"images come as torch\.int64"),
    ],
)
def test_calibration_says_what_it_does_not_take(given: object, reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        list(Shown(given, None))  # type: ignore[arg-type]


def test_prediction_leaves_the_mode_of_the_network() -> None:
    class Modes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0 + self.training

    model = Modes().train()
    run = runner(model, lc.Task((0.5,), (0.5,), (4, 4)), "pytorch")
    assert float(run(torch.zeros(1)).max()) == 0 and model.training
