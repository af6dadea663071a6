"""The weights of the best epoch: those of the history, whole, whatever happened to the run or to the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from leanconv.core.errors import FileError
from leanconv.data import ImageData
from leanconv.train import fit
from tests.train.conftest import SMALL, Net, assert_same, state
from tests.train.test_fit import Spoilt
from tests.train.test_resume import CtrlC

BEST = SMALL.replace(lr=0.05, schedule="constant", select="best")  # with `Spoilt`, the best epoch is not the last


@pytest.fixture
def run(data: ImageData, tmp_path: Path) -> dict[str, torch.Tensor]:
    model = Net(Spoilt())
    assert fit(model, data, BEST, tmp_path, progress=False).best_epoch != 3
    return state(model)


def refusal(data: ImageData, folder: Path) -> str:
    with pytest.raises(FileError) as caught:
        fit(Net(Spoilt()), data, BEST, folder, resume=True, progress=False)
    assert "\n" not in str(caught.value) and "best.safetensors: " in str(caught.value)
    return str(caught.value)


def test_damage_is_seen(run: dict[str, torch.Tensor], data: ImageData, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 4]) + content[-8:])
    assert "not the weights that epoch" in refusal(data, tmp_path)
    for broken in (b"", content[:50], b"x" * 200):
        path.write_bytes(broken)
        assert "cannot be read" in refusal(data, tmp_path)
    path.unlink()
    assert "cannot be read" in refusal(data, tmp_path)


def test_weights_of_another_epoch_are_refused(run: dict[str, torch.Tensor], data: ImageData, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    with safe_open(path, "pt") as file:
        said = file.metadata()
    save_file(load_file(path), path, said | {"epoch": "3"})
    assert "not the weights that epoch" in refusal(data, tmp_path)


def test_files_of_earlier_versions_are_read_and_checked(
    run: dict[str, torch.Tensor], data: ImageData, tmp_path: Path
) -> None:
    path = tmp_path / "best.safetensors"
    tensors = load_file(path)
    save_file(tensors, path)
    model = Net(Spoilt())
    fit(model, data, BEST, tmp_path, resume=True, progress=False)
    assert_same(state(model), run)
    save_file(tensors | {"6.bias": torch.zeros(3).double()}, path)
    assert "6.bias is (3,) of torch.float64 in it" in refusal(data, tmp_path)
    save_file({name: value for name, value in tensors.items() if name != "6.bias"}, path)
    assert "6.bias is missing in it" in refusal(data, tmp_path)


def test_a_kill_between_the_checkpoint_and_the_best_weights_loses_nothing(
    run: dict[str, torch.Tensor], data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*arguments: object) -> None:
        raise Killed

    folder, model = tmp_path / "killed", Net(Spoilt())
    with monkeypatch.context() as patched:
        patched.setattr("leanconv.train.callbacks.keep_best", kill)
        with pytest.raises(Killed):
            fit(Net(Spoilt()), data, BEST, folder, progress=False)
    assert (folder / "last.ckpt").exists() and not (folder / "best.safetensors").exists()
    fit(model, data, BEST, folder, resume=True, progress=False)
    assert_same(state(model), run)


def test_shared_weights_are_kept(data: ImageData, tmp_path: Path) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()
            self.tied = self.net[6]  # one module under two names

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    model = Shared()
    fit(model, data, BEST, tmp_path, progress=False)
    expected = state(model)
    for rewrite in (False, True):
        if rewrite:  # as earlier versions wrote it: shared tensors once
            save_model(model, str(tmp_path / "best.safetensors"))
            assert len(load_file(tmp_path / "best.safetensors")) < len(expected)
        again = Shared()
        fit(again, data, BEST, tmp_path, resume=True, progress=False)
        assert_same(state(again), expected)


def test_a_run_stopped_within_an_epoch_keeps_the_epoch_before(data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(Net(CtrlC(6)), data, BEST, tmp_path, progress=False)
    before = (tmp_path / "best.safetensors").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        fit(Net(CtrlC(0)), data, BEST, tmp_path, resume=True, progress=False)
    assert (tmp_path / "best.safetensors").read_bytes() == before


class Versioned(nn.Identity):
    """A layer that asks a state dict for its version, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):  # type: ignore[no-untyped-def]
        assert metadata.get("version") == 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_a_network_that_asks_for_the_versions_of_its_layers_gets_them(data: ImageData, tmp_path: Path) -> None:
    config = SMALL.replace(select="best", epochs=1)
    assert fit(Net(Versioned()), data, config, tmp_path, progress=False).best_epoch == 1
