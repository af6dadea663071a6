"""Callbacks, loggers and strategies of a user's: their order, their state through a resume, and what is refused."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar, Timer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn

from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.data import ImageData
from leanconv.train import fit
from leanconv.train.checkpoint import read_checkpoint
from leanconv.train.loggers import check_loggers, open_loggers
from tests.train.conftest import SMALL, Net, assert_same, state
from tests.train.test_resume import CtrlC, untimed


class Counter(pl.Callback):
    """Counts steps, and notes which epochs it has seen with which numbers."""

    def __init__(self) -> None:
        self.steps = 0
        self.seen: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        self.steps += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "sizes": torch.tensor([self.steps])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        assert state["sizes"].tolist() == [self.steps]


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_callback_goes_on_from_its_state(step: int, data: ImageData, tmp_path: Path) -> None:
    whole, counter = Net(), Counter()
    expected = fit(whole, data, SMALL, tmp_path / "whole", progress=False, callbacks=[counter])
    assert counter.steps == 12
    for record, seen in zip(expected.history, counter.seen, strict=True):
        assert seen == pytest.approx({name: record[name] for name in seen})
        assert set(record) - set(seen) == {"epoch", "seconds", "images_per_s", "peak_ram_bytes"}
    with pytest.raises(KeyboardInterrupt):
        fit(Net(CtrlC(step)), data, SMALL, tmp_path / "run", progress=False, callbacks=[Counter()])
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["callbacks"]["Counter"]["steps"] == step + 1
    model, again = Net(nn.Identity()), Counter()
    result = fit(model, data, SMALL, tmp_path / "run", resume=True, progress=False, callbacks=[again])
    assert again.steps == 12
    assert untimed(result.history) == untimed(expected.history)
    assert_same(state(model), state(whole))


def test_a_state_that_nobody_takes_up_is_said(data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(Net(CtrlC(2)), data, SMALL, tmp_path, progress=False, callbacks=[Counter()])
    with pytest.warns(LeanconvWarning, match="the state of Counter, but this run has no such callback"):
        fit(Net(nn.Identity()), data, SMALL, tmp_path, resume=True, progress=False)


def test_callbacks_run_in_order_and_before_ours(data: ImageData, tmp_path: Path) -> None:
    order: list[str] = []

    class Named(pl.Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            order.append(self.name)
            if self.name == "first":
                order.append(f"{len((tmp_path / 'metrics.jsonl').read_text().splitlines())} records")
                assert [type(callback).__name__ for callback in trainer.callbacks] == [
                    "Named", "Named", "WeightAveraging", "Recorder", "LastCheckpoint",
                ]  # fmt: skip

    config = SMALL.replace(epochs=2, ema=0.5)
    fit(Net(), data, config, tmp_path, progress=False, callbacks=[Named("first"), Named("second")])
    assert order == ["first", "0 records", "second", "first", "1 records", "second"]


@pytest.mark.parametrize("resume_from", [None, 2])
def test_early_stopping_ends_and_finishes_the_run(resume_from: int | None, data: ImageData, tmp_path: Path) -> None:
    def stopper() -> EarlyStopping:
        return EarlyStopping("val_loss", mode="max", patience=2)  # the loss falls, so each epoch is worse

    config = SMALL.replace(epochs=9)
    if resume_from is not None:
        with pytest.raises(KeyboardInterrupt):
            fit(Net(CtrlC(4 * resume_from + 1)), data, config, tmp_path, progress=False, callbacks=[stopper()])
    model = Net(nn.Identity())
    result = fit(model, data, config, tmp_path, resume=True, progress=False, callbacks=[stopper()])
    assert result.epochs == 3 == len((tmp_path / "metrics.jsonl").read_text().splitlines())
    again = Net(nn.Identity())
    assert fit(again, data, config, tmp_path, resume=True, progress=False) == result
    assert_same(state(again), state(model))


def test_a_callback_that_stops_within_an_epoch_is_heard_at_its_end(data: ImageData, tmp_path: Path) -> None:
    result = fit(Net(), data, SMALL, tmp_path, progress=False, callbacks=[Timer(duration={"seconds": 0})])
    assert result.epochs == 1
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 4


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end"])
def test_a_run_that_is_ended_keeps_the_slow_average(hook: str, data: ImageData, tmp_path: Path) -> None:
    class Ends(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            trainer.should_stop |= hook == "on_train_batch_end"

        def on_train_epoch_end(self, trainer: Any, *rest: Any) -> None:
            trainer.should_stop |= hook == "on_train_epoch_end"

    model = Net()
    result = fit(model, data, SMALL.replace(lookahead=3, epochs=5), tmp_path, progress=False, callbacks=[Ends()])
    (slow,) = [held["slow"] for held in read_checkpoint(tmp_path / "last.ckpt")["callbacks"].values() if "slow" in held]
    assert result.epochs == 1
    assert_same(slow, {name: value for name, value in state(model).items() if name in slow})


@pytest.mark.parametrize("select", ["last", "best"])
def test_model_checkpoints_of_a_user(select: str, data: ImageData, tmp_path: Path) -> None:
    plain, model = Net(), Net()
    config = SMALL.replace(select=select)
    fit(plain, data, config, tmp_path / "plain", progress=False)
    keep = ModelCheckpoint(monitor="val_loss", save_top_k=1, filename="mine-{epoch}")
    fit(model, data, config, tmp_path / "run", progress=False, callbacks=[keep])
    assert_same(state(model), state(plain))  # best.safetensors is not touched by them
    found = list((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.name for path in found] == ["mine-epoch=2.ckpt"]
    assert read_checkpoint(found[0])["global_step"] == 12


def test_a_progress_bar_of_a_user_takes_the_place_of_ours(
    data: ImageData, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Dots(ProgressBar):
        def disable(self) -> None: ...

        def on_train_batch_end(self, *arguments: Any) -> None:
            sys.stderr.write(".")

    fit(Net(), data, SMALL.replace(epochs=1), tmp_path, callbacks=[Dots()])
    assert capfd.readouterr().err == "...."


class Opaque(pl.Callback):
    def __init__(self, value: Any) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"kept": [self.value]}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no callback": ({"callbacks": [print]}, "must be a lightning.pytorch.Callback"),
    "averages": ({"callbacks": [lightning_callbacks.EMAWeightAveraging()]}, "set ema in the config"),
    "accumulates": ({"callbacks": [lightning_callbacks.GradientAccumulationScheduler({0: 2})]}, "set accumulate in the config"),
    "two states": ({"callbacks": [Counter(), Counter()]}, "two states have the name 'Counter'"),
    "an array": ({"callbacks": [Opaque(np.zeros(2))]}, "Opaque holds a value of type numpy.ndarray, and last.ckpt holds"),
    "a number of numpy's": ({"callbacks": [Opaque(np.float64(1))]}, "of type numpy.float64"),
    "a path": ({"callbacks": [Opaque({"a": Path("b")})]}, "of type pathlib"),
    "a set": ({"callbacks": [Opaque({1})]}, "of type set,"),
    "no logger": ({"logger": "tensorbord"}, "logger 'tensorbord' does not exist; there are tensorboard, csv, wandb"),
    "another logger": ({"logger": [3]}, "logger=3 must be one of tensorboard, csv, wandb, or a Logger"),
    "shards": ({"strategy": "fsdp"}, "strategy='fsdp' must be one of auto, ddp"),
    "shards, and the way out": ({"strategy": "fsdp"}, "write a loop of your own with leanconv.train.fsdp.shard_"),
    "sharding object": ({"strategy": FSDPStrategy()}, "FSDPStrategy(...) must be a DDPStrategy"),
    "the way out of an object": ({"strategy": ModelParallelStrategy()}, "with leanconv.train.fsdp.shard_"),
    "spawns": ({"strategy": DDPStrategy(start_method="spawn")}, "start_method='popen'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_run_cannot_have(case: str, data: ImageData, tmp_path: Path) -> None:
    settings, words = REFUSED[case]
    with pytest.raises(SettingError) as caught:
        fit(Net(), data, SMALL, tmp_path / "run", progress=False, **settings)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_state_that_goes_bad_leaves_the_checkpoint_before(data: ImageData, tmp_path: Path) -> None:
    class Later(Opaque):
        def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            self.value = object() if trainer.current_epoch else 1

    with pytest.raises(SettingError, match=r"the state of .*Later holds a value of type object"):
        fit(Net(), data, SMALL, tmp_path, progress=False, callbacks=[Later(0)])
    assert len(read_checkpoint(tmp_path / "last.ckpt")["progress"]["history"]) == 1


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leanconv.train.loggers.find_spec", lambda package: None)
    with pytest.raises(
        SettingError, match=rf"logger '{name}' needs the package {name}: pip install 'leanconv\[{name}\]'"
    ):
        check_loggers(name)
    assert check_loggers("csv") == ("csv",)
    assert check_loggers(None) == ()


def rows_of(folder: Path) -> list[dict[str, float]]:
    """The rows of all CSV files of a run, in the order of their starts."""
    files = sorted((folder / "csv").glob("from_step_*/metrics.csv"), key=lambda path: int(path.parent.name[10:]))
    return [
        {name: float(value) for name, value in row.items() if value}
        for path in files
        for row in csv.DictReader(path.read_text().splitlines())
    ]


def epochs_of(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "step"} for row in rows if "train_loss" in row]


@pytest.mark.parametrize("stops", [(), (5,), (3, 6)])
def test_csv_has_the_records_and_goes_on(stops: tuple[int, ...], data: ImageData, tmp_path: Path) -> None:
    done = 0
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            fit(Net(CtrlC(stop - done)), data, SMALL, tmp_path, resume=True, progress=False, logger="csv")
        done = stop + 1
    fit(Net(nn.Identity()), data, SMALL, tmp_path, resume=True, progress=False, logger="csv")
    rows = rows_of(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert epochs_of(rows) == records
    steps = [row for row in rows if "train_loss_step" in row]
    axis = [int(row["step"]) for row in steps]
    assert axis == sorted(set(axis)) and {0, 3, 4, 7, 8, 11} <= set(axis)
    assert [row["lr_step"] for row in steps if int(row["step"]) in (3, 7, 11)] == [record["lr"] for record in records]
    assert [int(row["step"]) for row in rows if "train_loss" in row] == [3, 7, 11]
    assert "lr: 0.1" in (tmp_path / "csv" / "from_step_0" / "hparams.yaml").read_text()


def test_tensorboard_has_the_same_and_its_thread_ends(data: ImageData, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    before = {thread.name for thread in threading.enumerate()}
    with pytest.raises(KeyboardInterrupt):
        fit(Net(CtrlC(5)), data, SMALL, tmp_path, progress=False, logger="tensorboard")
    fit(Net(nn.Identity()), data, SMALL, tmp_path, resume=True, progress=False, logger=["tensorboard", "csv"])
    assert {thread.name for thread in threading.enumerate()} == before
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name in ("train_loss", "val_top1_pct", "lr"):
        found = events.Scalars(name)
        assert [event.step for event in found] == [3, 7, 11]
        assert [event.value for event in found] == pytest.approx([record[name] for record in records])
    assert [event.step for event in events.Scalars("train_loss_step")] == [0, 3, 4, 5, 7, 8, 11]


def test_wandb_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    finished: list[int] = []

    class Wandb(CSVLogger):
        def __init__(self, name: str, **settings: Any) -> None:
            made.append({"name": name, **settings})

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", Wandb)
    module = type(sys)("wandb")
    module.finish = lambda: finished.append(1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    for step in (0, 8, 0):
        with open_loggers(["wandb"], tmp_path, step) as opened:
            assert len(opened) == 1
    first, resumed, anew = (settings["id"] for settings in made)
    assert first == resumed != anew
    assert finished == [1, 1, 1]
    assert made[0] == {"name": tmp_path.name, "save_dir": tmp_path, "id": first, "project": "leanconv"}


def test_a_logger_object_is_taken_as_it_is(data: ImageData, tmp_path: Path) -> None:
    mine = CSVLogger(tmp_path / "mine", name="", version="")
    fit(Net(), data, SMALL, tmp_path / "run", progress=False, logger=mine)
    assert len((tmp_path / "mine" / "metrics.csv").read_text().splitlines()) == 1 + 3 + 6
    assert not (tmp_path / "run" / "csv").exists()


PROGRAM = """
import sys, warnings
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from leanconv.data import ImageData
from leanconv.train import fit
from tests.train.conftest import SMALL, Net, Unread, stripes
from tests.train.test_engine import Counter

class Idle(nn.Module):  # a parameter that gets no gradient, which DDP must be told of
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(2))
    def forward(self, x):
        return x

data = ImageData("stripes", ("a", "b", "c"), stripes(), Unread(torch.tensor([0, 1, 2])), (0.3,), (0.2,))
counter, stop = Counter(), EarlyStopping("val_loss", mode="max", patience=1)
fit(Net(Idle()), data, SMALL.replace(channels_last=False), sys.argv[1], progress=False, accelerator="cpu", devices=2,
    logger="csv", callbacks=[counter, stop], strategy="ddp_find_unused_parameters_true")
assert counter.steps == 8, counter.steps
print("done")
"""


def test_several_processes_with_a_strategy_a_logger_and_callbacks(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    answer = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "run")], capture_output=True, text=True, timeout=110
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("done") == 2
    rows = rows_of(tmp_path / "run")
    assert len(epochs_of(rows)) == 2
    assert [int(row["step"]) for row in rows if "train_loss_step" in row] == [0, 3, 4, 7]
