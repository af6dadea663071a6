"""A run that was stopped and continued equals one that was not, bit for bit."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from leanconv.core.errors import FileError, SettingError
from leanconv.data import ImageData
from leanconv.train import TrainConfig, fit
from tests.train.conftest import SMALL, Net, assert_same, state

TIMES = ("seconds", "images_per_s", "peak_ram_bytes")


class CtrlC(nn.Module):
    """Presses it during a training step."""

    def __init__(self, step: int, presses: int = 1, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.step, self.presses, self.number = step, presses, number

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.step -= 1
            for _ in range(self.presses if self.step == -1 else 0):
                signal.raise_signal(self.number)
        return x


def untimed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name not in TIMES} for record in history]


def check_continues(
    network: Callable[..., nn.Module],
    data: ImageData,
    config: TrainConfig,
    folder: Path,
    steps: Sequence[int] = (1, 5),
    teacher: nn.Module | None = None,
) -> None:
    """Stop a run of `network(last layer)` after each of `steps`; continued, it equals a run that was not stopped."""
    whole = network(nn.Identity())
    expected = fit(whole, data, config, folder / "whole", progress=False, teacher=teacher)
    for step in steps:
        with pytest.raises(KeyboardInterrupt):
            fit(network(CtrlC(step)), data, config, folder / str(step), progress=False, teacher=teacher)
        model = network(nn.Identity())
        result = fit(model, data, config, folder / str(step), resume=True, progress=False, teacher=teacher)
        assert_same(state(model), state(whole))
        assert untimed(result.history) == untimed(expected.history)


CONFIGS = {
    "averaged": SMALL.replace(ema=0.8, epochs=2),
    "plateau": SMALL.replace(schedule="plateau", patience=0, lr=1.0, epochs=2),
    "no validation": SMALL.replace(validation=0, precision="bf16", epochs=2, batch_size=40),
    "best": SMALL.replace(select="best", ema=0.5, epochs=2),
    "lookahead": SMALL.replace(lookahead=3, schedule="triangle", augment="crop_flip", flip="alternating", epochs=2),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_stopped_at_any_step_and_continued(config: TrainConfig, data: ImageData, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background
    whole = Net()
    expected = fit(whole, data, config, tmp_path / "whole", progress=False)
    for step in range(8):
        folder = tmp_path / str(step)
        with pytest.raises(KeyboardInterrupt):
            fit(Net(CtrlC(step)), data, config, folder, progress=False)
        assert signal.getsignal(signal.SIGINT) is before
        model = Net(nn.Identity())
        result = fit(model, data, config, folder, resume=True, progress=False)
        assert_same(state(model), state(whole))
        assert untimed(result.history) == untimed(expected.history)
        assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == result.history


def test_only_a_run_that_starts_reads_images_for_the_start_of_its_network(data: ImageData, tmp_path: Path) -> None:
    class Started(Net):
        started = False

        def init_from_images_(self, images: Tensor) -> None:
            self.started = True

    first, again = Started(CtrlC(1)), Started(nn.Identity())
    with pytest.raises(KeyboardInterrupt):
        fit(first, data, SMALL, tmp_path, progress=False)
    fit(again, data, SMALL, tmp_path, resume=True, progress=False)
    assert first.started and not again.started


def test_killed_politely_then_stopped(data: ImageData, tmp_path: Path) -> None:
    whole = Net()
    fit(whole, data, SMALL, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        fit(Net(CtrlC(1, number=signal.SIGTERM)), data, SMALL, tmp_path / "parts", progress=False)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(KeyboardInterrupt):
        fit(Net(CtrlC(4)), data, SMALL, tmp_path / "parts", resume=True, progress=False)
    model = Net()
    fit(model, data, SMALL, tmp_path / "parts", resume=True, progress=False)
    assert_same(state(model), state(whole))


def test_killed_in_the_second_epoch(data: ImageData, tmp_path: Path) -> None:
    """Two presses stop at once: only the end of the first epoch is on disk, and half a line of the second."""
    before = signal.getsignal(signal.SIGINT)
    whole = Net()
    expected = fit(whole, data, SMALL, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        fit(Net(CtrlC(6, presses=2)), data, SMALL, tmp_path / "killed", progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    metrics = tmp_path / "killed" / "metrics.jsonl"
    assert len(metrics.read_text().splitlines()) == 1
    with metrics.open("a") as file:
        file.write('{"epoch": 2, "lr": 0.0')
    model = Net()
    result = fit(model, data, SMALL, tmp_path / "killed", resume=True, progress=False)
    assert_same(state(model), state(whole))
    assert untimed(result.history) == untimed(expected.history)
    assert len(metrics.read_text().splitlines()) == 3


def test_resuming_nothing_starts(data: ImageData, tmp_path: Path) -> None:
    assert fit(Net(), data, SMALL, tmp_path, resume=True, progress=False).epochs == 3


@pytest.mark.parametrize("settings", [{"ema": 0.8}, {"select": "best"}, {}])
def test_a_finished_run_gives_its_weights(settings: dict[str, Any], data: ImageData, tmp_path: Path) -> None:
    config = SMALL.replace(**settings)
    first, again = Net(), Net()
    result = fit(first, data, config, tmp_path, progress=False)
    assert fit(again, data, config, tmp_path, resume=True, progress=False) == result
    assert_same(state(first), state(again))


def test_a_run_from_before_a_setting_existed_continues(data: ImageData, tmp_path: Path) -> None:
    fit(Net(), data, SMALL, tmp_path, progress=False)
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del settings["flip"], settings["lookahead"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    assert fit(Net(), data, SMALL, tmp_path, resume=True, progress=False).epochs == 3
    with pytest.raises(SettingError, match="lookahead=2 differs from the run's lookahead=None"):
        fit(Net(), data, SMALL.replace(lookahead=2), tmp_path, resume=True, progress=False)


def test_what_cannot_be_resumed(data: ImageData, tmp_path: Path) -> None:
    def attempt(config: TrainConfig = SMALL, model: nn.Module | None = None, resume: bool = True) -> str:
        with pytest.raises((SettingError, FileError)) as caught:
            fit(model or Net(), data, config, tmp_path, resume=resume, progress=False)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    fit(Net(), data, SMALL, tmp_path, progress=False)
    assert "lr=0.2 differs from the run's lr=0.1; use that" in attempt(SMALL.replace(lr=0.2))
    assert "holds a run already; add --resume" in attempt(resume=False)
    wider = Net()
    wider[0] = nn.Conv2d(1, 9, 3)
    assert "written with another network (0.weight is (8, 1, 3, 3) in it and (9, 1, 3, 3) here)" in attempt(model=wider)
    assert fit(Net(), data, SMALL.replace(threads=2), tmp_path, resume=True, progress=False).epochs == 3

    checkpoint = tmp_path / "last.ckpt"
    content = checkpoint.read_bytes()
    for broken in (b"", b"not a checkpoint", content[: len(content) // 2]):
        checkpoint.write_bytes(broken)
        assert "last.ckpt: not a readable checkpoint; delete it to start again" in attempt()
    torch.save({"weights": torch.zeros(1)}, checkpoint)
    assert "last.ckpt: not a checkpoint of leanconv" in attempt()
    checkpoint.write_bytes(content)
    (tmp_path / "config.yaml").write_text("{")
    assert "config.yaml: cannot be read" in attempt()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil"),))


def test_a_checkpoint_runs_no_code(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit(Net(), data, SMALL, tmp_path / "run", progress=False)
    torch.save({"progress": Evil()}, tmp_path / "run" / "last.ckpt")
    with pytest.raises(FileError, match="not a readable checkpoint"):
        fit(Net(), data, SMALL, tmp_path / "run", resume=True, progress=False)
    assert not (tmp_path / "evil").exists()
