"""Exports compute what PyTorch computes, keep what is shared, and are not written when they do not."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import leanconv as lc
from leanconv.core.errors import CheckError, SettingError
from leanconv.deploy import formats
from tests.ops.contract import OWN, unsettle_

METHODS = {
    "tied_block": lc.TiedBlock(2),
    "split": lc.Split(),
    "shared_basis": lc.SharedBasis(4),
    "depth_shared": lc.DepthShared(),
    "adapters": lc.DepthShared(adapter_rank=1),
}
PEERS = {method().name: method() for method in OWN if method().name not in METHODS}
HERE = [
    name for name, kind in formats.FORMATS.items() if all(importlib.util.find_spec(needed) for needed in kind.packages)
]


def lean(method: str, width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    dense = lc.create_model("resnet8", width=width)
    where = "*" if method in METHODS else "layer1*"  # the peers share nothing between layers, and export slowly
    model = lc.convert(dense, lc.plan(dense, (METHODS | PEERS)[method], where, exclude=["conv1", "*shortcut*"])).eval()
    unsettle_(model)
    for name, parameter in model.named_parameters():
        if name.endswith("outer"):  # of a correction, which starts as zero
            nn.init.normal_(parameter, std=0.1)
    return model


FIRST = "onnx"  # the format in which every operator is exported in each run; the others take turns in slow runs
EXPORTS = [
    *itertools.product(METHODS, ["compact", "fast"], HERE),
    *(
        pytest.param(peer, "compact", to, marks=() if to == FIRST else pytest.mark.slow)
        for peer in PEERS
        for to in HERE
    ),
]


@pytest.mark.parametrize(("method", "form", "to"), EXPORTS)
def test_it_computes_the_same(method: str, form: str, to: str, tmp_path: Path):
    model = lean(method)
    image = torch.rand(1, 3, 32, 32)
    found = lc.export(model, tmp_path / "net", to=to, form=form, images=[image])
    assert found.compared >= 9 and found.any_size and found.max_error is not None and found.max_error < 1e-4
    assert found.unique_bytes == 4 * sum(p.numel() for p in model.parameters()) + sum(
        b.numel() * b.element_size() for b in model.buffers()
    )
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sum(files.values()) == found.file_bytes and found.path.name in files
    assert set(files) == {f"net{suffix}" for suffix in formats.FORMATS[to].files}
    assert found.loaded_bytes is None or found.loaded_bytes > 0
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "plain").stat().st_mode}


@pytest.mark.parametrize("to", [name for name in HERE if name != "openvino"])
@pytest.mark.parametrize("method", METHODS)
def test_compact_keeps_what_is_shared(method: str, to: str, tmp_path: Path):
    found = lc.export(lean(method, width=128), tmp_path / "net", to=to)
    assert found.file_bytes < 1.3 * found.unique_bytes
    assert found.loaded_bytes is not None and found.loaded_bytes < 1.3 * found.unique_bytes


def test_a_graph_of_one_image_size_is_said_to_be_so(tmp_path: Path):
    """Its last maps are one pixel, from which torch.export concludes that images are no larger."""
    found = lc.export(lc.create_model("shard_vgg16", width=8).eval(), tmp_path / "net.pt2")
    assert found.any_size is False and found.compared == 2 and found.max_error is not None


class Padded(nn.Module):
    """Pads images to whole multiples of 32, as detectors do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)

    def forward(self, x):
        height, width = x.shape[-2:]
        if height % 32 or width % 32:
            x = F.pad(x, (0, -width % 32, 0, -height % 32))
        return self.conv(x).mean((2, 3))


class Thinned(Padded):
    """Takes every other pixel of images over 100 pixels."""

    def forward(self, x):
        return self.conv(x[..., ::2, ::2] if x.shape[-1] > 100 else x).mean((2, 3))


@pytest.mark.parametrize("to", [name for name in HERE if name != "state-dict"])
@pytest.mark.parametrize("network", [Padded, Thinned])
def test_code_that_depends_on_the_size_fixes_the_size(network: type[nn.Module], to: str, tmp_path: Path):
    found = lc.export(network(), tmp_path / "net", to=to, example=torch.randn(2, 3, 64, 64))
    assert found.any_size is False and found.compared == 2


def test_code_that_depends_on_the_number_of_images_is_refused(tmp_path: Path):
    class Crowd(Padded):
        def forward(self, x):
            return self.conv(x if x.shape[0] > 4 else -x).mean((2, 3))

    with pytest.raises(
        SettingError, match=r"Crowd computes over 4 images in another way, .* independent of the number"
    ):
        lc.export(Crowd(), tmp_path / "net.pt2", example=torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("to", [name for name in HERE if name in ("onnx", "openvino")])
def test_an_operation_that_the_format_lacks_is_said(to: str, tmp_path: Path):
    class Cast(Padded):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):  # ONNX Runtime has no convolution in bfloat16
                return self.conv(x).float()

    class Smooth(Padded):
        def forward(self, x):
            return F.interpolate(self.conv(x), scale_factor=0.5, mode="bicubic", antialias=True)

    kind, reason = {"onnx": (Cast, "bfloat16"), "openvino": (Smooth, "_upsample_bicubic2d_aa")}[to]
    with pytest.raises(SettingError, match=f"{to} does not take {kind.__name__} .*{reason}.*choose another format"):
        lc.export(kind(), tmp_path / "net", to=to, example=torch.randn(2, 3, 16, 16))
    assert not list(tmp_path.iterdir())


def test_a_fresh_process_reads_it(tmp_path: Path):
    model = lean("depth_shared")
    x = torch.randn(2, 3, 32, 32)
    lc.export(model, tmp_path / "net.pt2")
    torch.save({"x": x, "y": model(x)}, tmp_path / "pair.pt")
    program = (
        "import sys, torch; pair = torch.load(sys.argv[1] + '/pair.pt', weights_only=True);"
        "y = torch.export.load(sys.argv[1] + '/net.pt2').module()(pair['x']);"
        "torch.testing.assert_close(y, pair['y']); assert 'leanconv' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    honest = formats.FORMATS["pt2"]
    wrong = formats.Format(
        honest.files, (), honest.write, lambda path, model: lambda x: honest.run(path, model)(x) + 0.01, honest.loaded
    )
    monkeypatch.setitem(formats.FORMATS, "pt2", wrong)
    with pytest.raises(CheckError, match=r"the pt2 file differs from PyTorch by 0\.01"):
        lc.export(lean("split"), tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


def test_the_model_stays_as_it_is(tmp_path: Path):
    model = lean("tied_block").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lc.export(model, tmp_path / "net.safetensors", form="compact")
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {module.form for module in model.modules() if isinstance(module, lc.TiedBlockConv2d)} == {"grouped"}


def test_mistakes_name_the_way_out(tmp_path: Path):
    with pytest.raises(SettingError, match="to='tflite' must be one of onnx, pt2, openvino"):
        lc.export(lean("split"), tmp_path / "net", to="tflite")
    with pytest.raises(SettingError, match=r"end the path in \.onnx, \.pt2"):
        lc.export(lean("split"), tmp_path / "net.bin")
    with pytest.raises(SettingError, match="form='small' must be 'compact', 'fast' or 'measured'"):
        lc.export(lean("split"), tmp_path / "net.pt2", form="small")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="pass example="):
        lc.export(nn.Conv2d(3, 8, 3), tmp_path / "net.pt2")

    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(SettingError, match="Branching cannot be exported"):
        lc.export(Branching(), tmp_path / "net.pt2", example=torch.randn(2, 3, 8, 8))
    assert not list(tmp_path.iterdir())
