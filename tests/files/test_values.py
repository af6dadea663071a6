"""Numbers that no network should hold, and files whose bits changed: never silent."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import FileError, LeanconvWarning, SettingError
from leanconv.detect import create_detector, save_detector
from leanconv.files.save import CHECKSUM_KEY, METADATA_KEY, MODEL_FILE


def small() -> nn.Module:
    torch.manual_seed(0)
    model = lc.create_model("resnet8", width=4)
    return lc.convert(model, lc.plan(model, lc.TiedBlock(), exclude="conv1")).eval()


def put(name: str, value: float) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        model.state_dict()[name].flatten()[0] = value

    return change


BAD: dict[str, tuple[Callable[[nn.Module], None], str]] = {
    "NaN in a weight": (put("conv1.weight", float("nan")), "'conv1.weight' holds NaN"),
    "infinity in a bias": (put("fc.bias", float("-inf")), "'fc.bias' holds infinity"),
    "both infinities": (lambda m: [put("fc.bias", float(v))(m) for v in ("inf",)], "'fc.bias' holds infinity"),
    "a negative variance": (put("bn1.running_var", -0.1), "'bn1.running_var' holds a negative variance"),
    "NaN in a mean": (put("bn1.running_mean", float("nan")), "'bn1.running_mean' holds NaN"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_network_that_answers_nan_is_not_saved_unasked_and_not_loaded_in_silence(what: str, tmp_path: Path):
    change, message = BAD[what]
    model = small()
    change(model)
    with pytest.raises(SettingError, match=message):
        lc.save(model, tmp_path)
    assert not (tmp_path / MODEL_FILE).exists()
    with pytest.warns(LeanconvWarning, match=message):
        lc.save(model, tmp_path, allow_nonfinite=True)
    with pytest.warns(LeanconvWarning, match=message):
        loaded = lc.load(tmp_path)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), model.state_dict()[name].nan_to_num())
    torch.save(model.state_dict(), tmp_path / "net.pth")
    with pytest.warns(LeanconvWarning, match=f"net.pth: {message}"):
        lc.load_checkpoint(small(), tmp_path / "net.pth")


def test_a_detector_that_answers_nan_is_not_saved(tmp_path: Path):
    detector = create_detector("retinanet", "timm/resnet10t", 2, pyramid_channels=8)
    next(detector.parameters()).data.flatten()[0] = float("nan")
    with pytest.raises(SettingError, match="holds NaN"):
        save_detector(detector, tmp_path)


def test_a_mask_of_infinities_and_a_large_half_weight_are_valid(tmp_path: Path):
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("mask", torch.zeros(4, 4).masked_fill(torch.eye(4) > 0, float("-inf")))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    model = Masked().half()
    model.conv.weight.data.fill_(60_000)  # their sum is beyond half precision
    lc.save(model, tmp_path)
    assert torch.equal(lc.load(tmp_path, model=Masked()).mask, model.mask)


def test_a_changed_bit_anywhere_in_the_file_is_found(tmp_path: Path):
    model = small()
    lc.save(model, tmp_path)
    file = tmp_path / MODEL_FILE
    whole = file.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(150):
        at = rng.randrange(len(whole))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        try:
            loaded = lc.load(tmp_path)
        except FileError:
            refused += 1
            continue
        assert all(torch.equal(t, model.state_dict()[n]) for n, t in loaded.state_dict().items()), f"byte {at}"
    assert refused > 140
    last = bytearray(whole)
    last[-1] ^= 1
    file.write_bytes(last)
    with pytest.raises(FileError, match="was changed after it was saved: its checksum is another"):
        lc.load(tmp_path)


def test_a_file_without_a_checksum_is_an_older_one_and_loads(tmp_path: Path):
    model = small()
    lc.save(model, tmp_path)
    file = tmp_path / MODEL_FILE
    with safe_open(file, "pt") as opened:
        noted = opened.metadata()
    assert noted.pop(CHECKSUM_KEY).startswith("crc32:") and METADATA_KEY in noted
    save_file(load_file(file), file, metadata=noted)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(lc.load(tmp_path)(x), model(x))
