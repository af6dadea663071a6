"""Runs on several processes and machines: started by the real torchrun, continued on another number, tested together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.processes import rank, started
from leanconv.data import ImageData
from leanconv.data.loader import make_loader
from leanconv.data.sampling import Sampling
from leanconv.train import TrainConfig, fit
from tests.gates.tree import ROOT
from tests.train.conftest import Unread, stripes
from tests.train.test_resume import CtrlC, untimed

LONGEST = 800  # seconds that a run may take on a busy machine
CONFIG = TrainConfig(epochs=2, batch_size=32, lr=0.1, augment="crop_flip", validation=0.2, threads=1)


class Stop(nn.Module):
    """Ends every process of the run in its forward pass of this number, or kills the second machine."""

    def __init__(self, step: int, kills: bool = False) -> None:
        super().__init__()
        self.step, self.kills = step, kills

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.step -= self.training
        if self.step == -1 and not self.kills:
            raise KeyboardInterrupt
        if self.step == -1 and rank() == 1:
            if started().launcher == "torchrun":  # type: ignore[union-attr]
                os.kill(os.getppid(), signal.SIGKILL)  # its agent, which would start the process again
            os.kill(os.getpid(), signal.SIGKILL)
        return x


class Spare(nn.Module):
    """A layer that no image reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def network(*last: nn.Module) -> nn.Module:
    """Without norms and dropout, which depend on the images and the numbers of one process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3), *last)


def stripes_data() -> ImageData:
    return ImageData("stripes", ("a", "b", "c"), stripes(), Unread(torch.tensor([0, 1, 2])), (0.3,), (0.2,))


def main(folder: str, step: int, more: dict[str, Any]) -> None:
    """What each process does."""
    last, kills = [Spare()] if more.pop("spare", False) else [], more.pop("kills", False)
    strategy = {"strategy": "ddp_find_unused_parameters_true"} if last else {}
    model, config = network(*last, Stop(step, kills)), CONFIG.replace(**more)
    try:
        fit(model, stripes_data(), config, folder, resume=True, progress=False, accelerator="cpu", **strategy)
    except KeyboardInterrupt:
        return
    scores = lc.evaluate(model, odd_images(), together=True)
    (Path(folder) / f"scores{rank()}.json").write_text(json.dumps(vars(scores)))


def odd_images() -> ImageData:
    """101 images to test on, which two or four processes cannot share evenly."""
    return ImageData("stripes", ("a", "b", "c"), stripes(3), stripes(101), (0.3,), (0.2,))


def torchrun(folder: Path, step: int, machines: int, processes: int, **more: Any) -> None:
    """Start `processes` on each of the machines, which are addresses of this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = f"from tests.train.test_elastic import main; main({str(folder)!r}, {step}, {more!r})"
    file = folder.with_suffix(".py")
    file.parent.mkdir(exist_ok=True)
    file.write_text(program)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC"))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    launched = [
        subprocess.Popen(
            [
                sys.executable, "-m", "torch.distributed.run", f"--nnodes={machines}", f"--nproc-per-node={processes}",
                "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", f"--local-addr=127.0.0.{number}",
                "--rdzv-id=test", str(file),
            ],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(1, machines + 1)
    ]  # fmt: skip
    told = [process.communicate(timeout=LONGEST)[0] for process in launched]
    ended = [process.returncode for process in launched]
    if more.get("kills"):
        assert -signal.SIGKILL in ended and 0 not in ended, "the other machine must not go on alone, or wait"
    else:
        assert not any(ended), "\n".join(told)[-4000:]


def whole(folder: Path, **more: Any) -> tuple[nn.Module, list[dict[str, Any]]]:
    """The run on one process, without a stop."""
    model = network(*([Spare()] if more.pop("spare", False) else []), nn.Identity())
    return model, fit(model, stripes_data(), CONFIG.replace(**more), folder, progress=False).history


def check_same(folder: Path, model: nn.Module, history: list[dict[str, Any]]) -> None:
    """The finished run in `folder` has these weights and records, up to rounding."""
    read = network(*[layer for layer in model if isinstance(layer, Spare)], nn.Identity())  # type: ignore[attr-defined]
    found = fit(read, stripes_data(), settings_of(folder), folder, resume=True, progress=False).history
    torch.testing.assert_close(read.state_dict(), model.state_dict(), rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(untimed(found), untimed(history), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


def settings_of(folder: Path) -> TrainConfig:
    import yaml

    stored = yaml.safe_load((folder / "config.yaml").read_text())
    return CONFIG.replace(**{name: stored[name] for name in ("accumulate", "clip") if name in stored})


@pytest.mark.timeout(900)
def test_two_machines_start_a_run_that_one_process_finishes(tmp_path: Path) -> None:
    model, history = whole(tmp_path / "whole")
    torchrun(tmp_path / "run", 6, machines=2, processes=1)  # stops in the second epoch
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    fit(network(nn.Identity()), stripes_data(), CONFIG, tmp_path / "run", resume=True, progress=False)
    check_same(tmp_path / "run", model, history)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_goes_from_one_process_within_an_epoch_to_two_and_to_four_machines(tmp_path: Path) -> None:
    model, history = whole(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(network(CtrlC(2)), stripes_data(), CONFIG, tmp_path / "run", progress=False)
    shutil.copytree(tmp_path / "run", tmp_path / "four")
    expected = vars(lc.evaluate(model, odd_images()))
    for name, machines, processes in (("run", 2, 1), ("four", 2, 2)):
        torchrun(tmp_path / name, 100, machines, processes)
        check_same(tmp_path / name, model, history)
        for number in range(machines * processes):  # each image counts once, and each process has all scores
            scores = json.loads((tmp_path / name / f"scores{number}.json").read_text())
            assert scores == pytest.approx(expected, rel=1e-4) and scores["n"] == 101


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_machine_that_is_killed_ends_the_run_which_another_continues(tmp_path: Path) -> None:
    model, history = whole(tmp_path / "whole")
    torchrun(tmp_path / "run", 6, machines=2, processes=1, kills=True)  # in the second epoch
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    fit(network(nn.Identity()), stripes_data(), CONFIG, tmp_path / "run", resume=True, progress=False)
    check_same(tmp_path / "run", model, history)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_parts_of_a_step_with_unused_parameters(tmp_path: Path) -> None:
    more = {"accumulate": 4, "clip": 0.5}
    model, history = whole(tmp_path / "whole", spare=True, **more)
    torchrun(tmp_path / "run", 100, 1, 2, spare=True, **more)
    check_same(tmp_path / "run", model, history)


@pytest.mark.parametrize("count", [95, 96, 97, 128])
def test_any_number_of_processes_takes_the_same_images_in_the_same_steps(count: int) -> None:
    def steps(processes: int) -> list[set[int]]:
        own = [Sampling(count, 32 // processes, True, 3, True, rank, processes) for rank in range(processes)]
        assert len({one.batches() for one in own}) == 1
        rows = [one.order(1).split(one.batch_size)[: one.batches()] for one in own]
        return [set(torch.cat(parts).tolist()) for parts in zip(*rows, strict=True)]

    assert len(steps(1)) == count // 32
    for processes in (2, 4, 8, 32):
        assert steps(processes) == steps(1)


def test_each_image_is_augmented_alike_for_any_number_of_processes() -> None:
    def first(rank: int, processes: int) -> dict[int, torch.Tensor]:
        images = stripes(70)
        images.labels = torch.arange(70)
        batches = make_loader(
            images, mean=[0.3], std=[0.2], batch_size=32 // processes, augment="crop_flip", train=True, seed=5,
            drop_last=True, rank=rank, world_size=processes,
        )  # fmt: skip
        return {int(row): image for pixels, rows in batches for image, row in zip(pixels, rows, strict=True)}

    alone = first(0, 1)
    together = first(0, 4) | first(1, 4) | first(2, 4) | first(3, 4)
    assert alone.keys() == together.keys() and all(torch.equal(alone[row], together[row]) for row in alone)
