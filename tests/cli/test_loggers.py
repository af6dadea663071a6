"""--logger: each run of a verb that trains logs in its own folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

import leanconv as lc
from leanconv.core.errors import SettingError
from tests.cli.conftest import one_line

QUICK = ("--epochs", "1", "--threads", "1")


def test_each_run_of_a_comparison_logs_in_its_own_folder(call: Callable, tmp_path: Path) -> None:
    loggers = ("--logger", "csv", "--logger", "tensorboard")
    answer = call("compare", "resnet8", "--methods", "dense,tied_block(blocks=2)", *QUICK, *loggers, "--out", tmp_path)
    assert answer.code == 0, answer.err
    rows = [path.read_text().splitlines() for path in tmp_path.glob("*/seed0/csv/from_step_0/metrics.csv")]
    assert len(rows) == 2
    assert all("train_loss" in lines[0] and len(lines) > 2 for lines in rows)
    assert len(list(tmp_path.glob("*/seed0/tensorboard/events.*"))) == 2


def test_a_logger_that_is_missing_leaves_no_folder(
    call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leanconv.train.loggers.find_spec", lambda package: None)
    answer = call("train", "resnet8", *QUICK, "--logger", "wandb", "--out", tmp_path / "run")
    assert answer.code == 2
    assert one_line(answer, "logger 'wandb' needs the package wandb", "pip install 'leanconv[wandb]'")
    assert not (tmp_path / "run").exists()


class Steps(Callback):
    """Counts the steps of its own run."""

    counts: list[int] = []

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_end(self, *arguments: object) -> None:
        self.steps += 1

    def on_train_end(self, *arguments: object) -> None:
        self.counts.append(self.steps)


def test_each_run_of_a_comparison_has_callbacks_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Steps, "counts", [])
    options = {"epochs": 1, "threads": 1, "latency": False, "progress": False}
    mine = Steps()
    lc.compare("resnet8", ["dense", "tied_block(blocks=2)"], callbacks=[mine], **options)
    assert len(Steps.counts) == 2 and Steps.counts[0] == Steps.counts[1] > 0
    assert mine.steps == 0
    with pytest.raises(SettingError, match="a Logger object would mix the runs of a comparison; give its name"):
        lc.compare("resnet8", ["dense", "tied_block(blocks=2)"], logger=CSVLogger("x"), **options)
