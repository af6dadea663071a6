"""What a run writes to standard error while it trains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from leanconv.data import ImageData
from leanconv.train import fit
from tests.train.conftest import SMALL, Net


def test_progress_goes_to_standard_error(data: ImageData, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fit(Net(), data, SMALL, tmp_path)
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3, loss ")
    assert lines[0].endswith(" images/s")


def test_progress_bar_on_a_terminal(
    data: ImageData, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    fit(Net(), data, SMALL, tmp_path)
    err = capfd.readouterr().err
    for part in ("epoch 1/3", "images/s", "left"):
        assert part in err


def test_a_long_epoch_writes_lines_to_a_log(
    data: ImageData, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leanconv.train.progress.LINE_EVERY", 0.0)
    fit(Net(), data, SMALL.replace(epochs=1, batch_size=4, validation=0.0), tmp_path)
    lines = capfd.readouterr().err.splitlines()
    found = [re.fullmatch(r"epoch 1/1, step (\d+)/40, [\d,]+ images/s, \d+:\d\d left", line) for line in lines[:-1]]
    assert [step and int(step[1]) for step in found] == [1, 21]
    assert lines[-1].startswith("epoch 1/1, loss ")
