"""A network that was changed after it was built by name comes back changed, or not without a warning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import FileError, LeanconvWarning
from leanconv.files.save import METADATA_KEY, MODEL_FILE

METHOD = lc.TiedBlock(2)


def changed(what: str) -> nn.Module:
    torch.manual_seed(0)
    model = lc.create_model("resnet8")
    if what == "layer":
        model.layer1[0].relu1 = nn.GELU()
    elif what == "attribute":
        model.conv1.stride = (2, 2)
    elif what == "norms":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.1
    return model.eval()


@pytest.mark.parametrize("lean", [False, True], ids=["dense", "lean"])
@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("layer", r"'layer1\.0\.relu1' is GELU\("),
        ("attribute", r"'conv1' is Conv2d\(3, 16.*stride=\(2, 2\)"),
        ("norms", r"is BatchNorm2d\(16, eps=0\.1"),
    ],
)
def test_a_changed_network_is_not_loaded_as_the_unchanged_one(
    what: str, named: str, lean: bool, tmp_path: Path
) -> None:
    model = changed(what)
    if lean:
        model = lc.convert(model, lc.plan(model, METHOD, where="layer2*")).eval()
    with pytest.warns(LeanconvWarning, match=f"this resnet8 was changed after it was built: .*{named}.*model=network"):
        lc.save(model, tmp_path)
    with pytest.raises(FileError, match="hand it in"):
        lc.load(tmp_path)
    x = torch.randn(1, 3, 32, 32)
    assert torch.allclose(lc.load(tmp_path, model=changed(what))(x), model(x), atol=1e-6)
    with pytest.warns(LeanconvWarning, match="saved from a network with other layers: here"):
        lc.load(tmp_path, model=lc.create_model("resnet8"))


def test_an_unchanged_network_is_saved_without_a_warning(tmp_path: Path) -> None:
    for name in (
        "resnet8",
        "basis_resnet32",
        "shard_vgg16(width=8)",
        "timm/test_resnet",
        "torchvision/mobilenet_v3_small",
    ):
        lc.save(lc.create_model(name), tmp_path)
        lc.load(tmp_path)
    model = lc.create_model("resnet8")
    lc.save(
        nn.SyncBatchNorm.convert_sync_batchnorm(lc.convert(model, lc.plan(model, lc.SharedBasis(), exclude="conv1"))),
        tmp_path,
    )
    lc.load(tmp_path)
    lc.save(lc.narrower(model, macs=0.7), tmp_path)
    lc.load(tmp_path)


def test_a_file_without_codes_of_layers_loads(tmp_path: Path) -> None:
    lc.save(lc.create_model("resnet8"), tmp_path)
    info = json.loads((tmp_path / "plan.json").read_text())
    assert len(info.pop("layers").split()) == len(list(lc.create_model("resnet8").modules()))
    save_file(load_file(tmp_path / MODEL_FILE), tmp_path / MODEL_FILE, metadata={METADATA_KEY: json.dumps(info)})
    lc.load(tmp_path)


class Frozen(nn.Module):
    """Its author's train() returns nothing, as that of many networks with frozen norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


def test_a_network_whose_train_returns_nothing_is_a_network(tmp_path: Path) -> None:
    model, x = Frozen(), torch.randn(2, 3, 8, 8)
    lc.save(model, tmp_path)
    model.train(False)
    expected = model(x)
    assert torch.equal(lc.load(tmp_path, model=Frozen())(x), expected)
    assert lc.count(model, (3, 8, 8)).macs and lc.to_dense(model)(x).shape == (2, 2)
    assert torch.allclose(lc.optimize(model, x, measured=False)(x), expected, atol=1e-5)
    assert lc.export(model, tmp_path / "net.safetensors", example=x).max_error == 0


def test_load_fills_a_copy(tmp_path: Path) -> None:
    model = Frozen()
    lc.save(model, tmp_path)
    given = Frozen()
    before = given.conv.weight.clone()
    loaded = lc.load(tmp_path, model=given)
    assert loaded is not given and torch.equal(given.conv.weight, before)
    assert torch.equal(loaded.get_parameter("conv.weight"), model.conv.weight)


class Tied(nn.Module):
    """Two layers whose weights are two parameters in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.b.weight.data = self.a.weight.data


@pytest.mark.parametrize("half", [False, True])
def test_weights_that_share_memory_are_stored_once_and_still_share_it(half: bool, tmp_path: Path) -> None:
    model = Tied()
    assert lc.count(model).params == 8 * 8 * 9 + 16
    assert lc.count(model).bytes == 4 * (8 * 8 * 9 + 16)
    if half:
        model.half()
        model.b.weight.data = model.a.weight.data
    lc.save(model, tmp_path)
    assert len(load_file(tmp_path / MODEL_FILE)) == 3
    loaded = lc.load(tmp_path, model=Tied())
    a, b = loaded.get_parameter("a.weight"), loaded.get_parameter("b.weight")
    assert a.data_ptr() == b.data_ptr() and a.dtype == model.a.weight.dtype and torch.equal(b, model.a.weight)
