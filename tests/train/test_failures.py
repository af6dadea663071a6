"""A full disk, a killed process, a run that diverges: one line, nothing lost, and the next start works."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leanconv.core.errors import RunError, SettingError
from leanconv.data import ImageData, LabelledImages, TensorImages
from leanconv.train import evaluate, fit, loop
from leanconv.train.checkpoint import read_checkpoint
from leanconv.train.loggers import open_loggers
from tests.train.conftest import SMALL, Net, assert_same, state, stripes


@pytest.fixture
def whole(data: ImageData, tmp_path: Path) -> dict[str, Tensor]:
    model = Net()
    fit(model, data, SMALL, tmp_path / "whole", progress=False)
    return state(model)


def continued(data: ImageData, folder: Path) -> dict[str, Tensor]:
    model = Net(nn.Identity())
    fit(model, data, SMALL, folder, resume=True, progress=False)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    return state(model)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As a full disk: what is written beyond it fails."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class AtStep(nn.Module):
    """Does something once, in a training step."""

    def __init__(self, step: int, action: Any) -> None:
        super().__init__()
        self.step, self.action = step, action

    def forward(self, x: Tensor) -> Tensor:
        self.step -= self.training
        if self.step == -1:
            self.action()
            self.step = -2
        return x


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_keeps_the_checkpoint_before(whole: dict[str, Tensor], data: ImageData, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        fill = AtStep(5, lambda: stack.enter_context(files_of_at_most(4000)))
        with pytest.raises(RunError, match=r"last.ckpt cannot be written \(.*\); earlier files are complete") as caught:
            fit(Net(fill), data, SMALL, tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)
    assert len(read_checkpoint(tmp_path / "run" / "last.ckpt")["progress"]["history"]) == 1
    assert_same(continued(data, tmp_path / "run"), whole)


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json"])
def test_a_disk_that_is_full_at_another_file(
    name: str, whole: dict[str, Tensor], data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if name == "metrics.jsonl":
        (tmp_path / "run" / name).mkdir(parents=True)  # what cannot be opened
        message = "metrics.jsonl cannot be written"
    else:
        monkeypatch.setattr("leanconv.train.run.write_json", full)
        message = r"summary.json cannot be written \(No space left on device\)"
    with pytest.raises((RunError, SettingError), match=message if name == "summary.json" else "metrics.jsonl"):
        fit(Net(), data, SMALL, tmp_path / "run", progress=False)
    monkeypatch.undo()
    if name == "metrics.jsonl":
        (tmp_path / "run" / name).rmdir()
    assert_same(continued(data, tmp_path / "run"), whole)


def test_leftovers_of_a_killed_process_go_and_those_of_a_living_one_stay(
    whole: dict[str, Tensor], data: ImageData, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    program = """
        import sys, time
        from leanconv.core.atomic import replacing
        with replacing(sys.argv[1]) as temporary:
            temporary.write_bytes(b"half")
            print(temporary.name, flush=True)
            time.sleep(60)
    """
    code = "\n".join(line.removeprefix("        ") for line in program.splitlines())
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(folder / "last.ckpt")], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        killed, living = (folder / process.stdout.readline().strip() for process in started)  # type: ignore[union-attr]
        started[0].kill()
        started[0].wait()
        mine = folder / ".last.ckpt.notes-of-mine"
        mine.write_text("kept")
        fit(Net(), data, SMALL, folder, resume=True, progress=False)
        assert (killed.exists(), living.exists(), mine.exists()) == (False, True, True)
    finally:
        for process in started:
            process.kill()
            process.communicate()
    living.unlink(missing_ok=True)
    mine.unlink()
    assert_same(continued(data, folder), whole)


class Decoded(LabelledImages):
    """Images that worker processes make, where one of these is killed."""

    def __init__(self, images: TensorImages, victim: int | None) -> None:
        self.images, self.victim = images, victim
        self.labels = images.labels
        self.parent = os.getpid()

    @property
    def channels(self) -> int:
        return 1

    def pixels(self) -> Iterator[Tensor]:
        return self.images.pixels()

    def subset(self, rows: Tensor) -> Decoded:
        return Decoded(self.images.subset(rows), self.victim)

    def relabelled(self, labels: Tensor) -> Decoded:
        return Decoded(self.images.relabelled(labels), self.victim)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if row == self.victim and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.images.images[row], int(self.labels[row])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_killed_worker_is_one_line(data: ImageData, tmp_path: Path) -> None:
    for name, victim in (("killed", 70), ("whole", None)):
        images = ImageData("decoded", data.classes, Decoded(stripes(), victim), data.test, data.mean, data.std)
        config = SMALL.replace(workers=1, image_size=8, epochs=1, validation=0)
        if victim is None:
            assert fit(Net(), images, config, tmp_path / name, progress=False).epochs == 1
            continue
        with pytest.raises(RunError, match=r"a process that decodes images ended \(.*lower workers") as caught:
            fit(Net(), images, config, tmp_path / name, progress=False)
        assert "\n" not in str(caught.value)
        with pytest.raises(RunError, match="a process that decodes images ended"):
            evaluate(Net(), images.train, mean=data.mean, std=data.std, workers=1, image_size=8)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_is_killed_while_it_sends(error: Exception, data: ImageData, tmp_path: Path) -> None:
    def broken() -> None:
        raise error

    with pytest.raises(RunError, match=r"a process that decodes images ended \((.*reset by peer|EOFError)\)"):
        fit(Net(AtStep(1, broken)), data, SMALL, tmp_path, progress=False)


def test_the_signal_of_a_killed_worker_that_comes_late(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks first, and torch's handler raises for the signal while the loggers close."""

    @contextlib.contextmanager
    def closing(*arguments: Any) -> Iterator[Any]:
        with open_loggers(*arguments) as opened:
            try:
                yield opened
            finally:
                raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    def broken() -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(loop, "open_loggers", closing)
    with pytest.raises(RunError, match="a process that decodes images ended"):
        fit(Net(AtStep(1, broken)), data, SMALL, tmp_path, progress=False)


def test_memory_that_ran_out_is_one_line(data: ImageData, tmp_path: Path) -> None:
    def exhaust() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore to read")

    with pytest.raises(RunError, match=r"^CUDA out of memory. Tried to allocate 2 GiB.; lower batch_size"):
        fit(Net(AtStep(5, exhaust)), data, SMALL, tmp_path, progress=False)
    assert len(read_checkpoint(tmp_path / "last.ckpt")["progress"]["history"]) == 1


@pytest.mark.parametrize("validation", [0.0, 0.2])
@pytest.mark.parametrize("name", ["0.weight", "1.running_mean"])
def test_weights_that_are_not_finite_after_the_last_step_end_the_run(
    name: str, validation: float, data: ImageData, tmp_path: Path
) -> None:
    """Its loss was finite still, and its epoch must not be kept."""
    model = Net()
    last_step, seen = 2 * (5 if validation == 0 else 4), []

    def spoil(gradient: Tensor) -> Tensor:
        seen.append(gradient)
        if len(seen) < last_step:
            return gradient
        if name == "1.running_mean":
            model[1].running_mean[0] = torch.inf
            return gradient
        return gradient * torch.nan

    model[0].weight.register_hook(spoil)
    config = SMALL.replace(validation=validation, ema=0.5, lr=0.01)
    with pytest.raises(RunError, match=r"not finite at epoch 2, step \d+, lr=.*; lower lr") as caught:
        fit(model, data, config, tmp_path, progress=False)
    assert "\n" not in str(caught.value)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=lambda name: pytest.fail(name))["epoch"] for line in lines] == [1]
    found = read_checkpoint(tmp_path / "last.ckpt")
    assert len(found["progress"]["history"]) == 1
    assert all(value.isfinite().all() for value in found["state_dict"].values())


def test_a_validation_loss_that_is_not_finite_ends_the_run(data: ImageData, tmp_path: Path) -> None:
    class Blind(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if self.training else x * torch.inf

    with pytest.raises(RunError, match=r"val_loss is not finite at epoch 1, step 4"):
        fit(Net(Blind()), data, SMALL.replace(select="best"), tmp_path, progress=False)
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    assert not (tmp_path / "best.safetensors").exists()


def test_a_place_that_cannot_hold_a_run(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingError) as caught:
            fit(Net(), data, SMALL, out, progress=False)
        assert "\n" not in str(caught.value) and "file" in str(caught.value)

    def refuse(*arguments: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("leanconv.train.folder.write_text", refuse)
    with pytest.raises(SettingError, match=r"closed: cannot hold a run \(Permission denied\); choose another folder"):
        fit(Net(), data, SMALL, tmp_path / "closed", progress=False)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_network_of_which_nothing_can_train_is_refused_before_a_folder_is_made(
    data: ImageData, tmp_path: Path
) -> None:
    for model, said in (
        (
            Net().requires_grad_(False),
            r"all parameters of Net are frozen, so nothing trains; call model.requires_grad_\(True\)",
        ),
        (Net().to("meta"), "is on the meta device, which holds no values"),
        (torch.inference_mode()(lambda: Net())(), "of Net was made within torch.inference_mode, so it cannot train"),
    ):
        with pytest.raises(SettingError, match=said):
            fit(model, data, SMALL, tmp_path / "a", progress=False)
    with torch.inference_mode(), pytest.raises(SettingError, match=r"nothing trains within torch\.inference_mode"):
        fit(Net(), data, SMALL, tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()
