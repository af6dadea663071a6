"""Commands that torchrun starts several times: one run, one table, one measurement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import leanconv as lc
from leanconv.detect import create_detector, save_detector
from tests.detect.sample import write_coco
from tests.gates.tree import ROOT

from .conftest import TINY, one_line


@pytest.mark.parametrize(
    "command",
    [("models",), ("inspect", "resnet8"), ("detect", "predict", "no", "--data", "no"), ("reproduce",)],
)
def test_other_processes_leave_it_to_the_first(
    command: tuple[str, ...], call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert call(*command) == (0, "", "")


def test_devices_that_contradict_torchrun_leave_no_folder(
    call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    answer = call("train", "resnet8", "--out", tmp_path / "run", "--devices", 3, *TINY)
    assert answer.code == 2
    assert one_line(answer, "devices=3, but torchrun started 2 processes on this machine")
    assert not (tmp_path / "run").exists()


def shell(script: Path, *command: object, launch: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    script.write_text("from leanconv.cli import main; main()")  # a file, which Lightning starts again
    start = ["-m", "torch.distributed.run", *launch] if launch else []
    done = subprocess.run(
        [sys.executable, *start, str(script), *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=1500,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


TWO = ("--nproc-per-node", "2")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_torchrun_trains_one_run_and_measures_once(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    options = ("--data", "digits", "--epochs", 2, "--threads", 1, "--device", "cpu", "--json")
    done = shell(
        script, "compare", "resnet8", "--methods", "dense,split", *options, "--out", tmp_path / "two", launch=TWO
    )
    told = json.loads(done.stdout)  # one table, not two
    assert done.stderr.count("measuring the latency") == done.stderr.count("epoch 2/2") / 2 == 1
    for row in told["rows"]:
        folder = tmp_path / "two" / {"dense": "dense"}.get(row["method"], "split-ratio=0.5") / "seed0"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2]
        assert row["latency_ms"] > 0
    done = shell(script, "train", "resnet8", *options, "--out", tmp_path / "lightning", "--devices", 2)
    expected = load_file(tmp_path / "lightning" / "model.safetensors")
    found = load_file(tmp_path / "two" / "dense" / "seed0" / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert json.loads(done.stdout)["train"]["val_top1_pct"] == told["rows"][0]["val_top1_pct"]
    assert set(json.loads(shell(script, "eval", tmp_path / "lightning", "--json", launch=TWO).stdout)) >= {
        "top1_pct",
        "n",
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_torchrun_shares_the_photos_of_a_detector(tmp_path: Path) -> None:
    """Three photos on two processes: each is counted once, and the scores are those of one process."""
    photos = write_coco(tmp_path / "shapes", val=3)
    torch.manual_seed(0)
    sizes = {"min_size": (48,), "max_size": 64, "anchor_sizes": (8, 16, 24, 32, 48), "pyramid_channels": 16}
    network = lc.create_model("timm/test_resnet")
    save_detector(create_detector("faster_rcnn", network, classes=("box", "disc"), **sizes), tmp_path / "detector")
    command = ("detect", "eval", tmp_path / "detector", "--data", photos, "--threads", 1, "--device", "cpu", "--json")
    (alone,), (shared,) = (
        json.loads(shell(tmp_path / "start.py", *command, launch=launch).stdout)["rows"] for launch in ((), TWO)
    )
    assert shared == alone and alone["val"]["photos"] == 3
