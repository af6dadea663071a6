"""A folder whose files were written before settings were declared without pydantic and before `leanconv.experiment`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.experiment import run
from leanconv.experiment.settings import read_config
from leanconv.train import TrainConfig

OLD = Path(__file__).parent / "old_run"
SAME: dict[str, Any] = {
    "method": "tied_block(blocks=2)",
    "epochs": 2,
    "threads": 1,
    "precision": "bf16",
    "progress": False,
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "run"))


def test_a_finished_one_is_read_back(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "fit", lambda *arguments, **options: pytest.fail("it trains again"))
    result = lc.fit("resnet8(width=4)", "digits", out=old, **SAME)
    assert result.to_json() == json.loads((OLD / "summary.json").read_text())
    assert len(result.history) == 2
    assert lc.evaluate(result.network, "digits", precision="bf16").top1_pct == pytest.approx(
        result.scores.top1_pct, abs=0.6
    )


def test_an_unfinished_one_is_continued(old: Path) -> None:
    (old / "summary.json").unlink()
    with pytest.raises(SettingError, match="add --resume"):
        lc.fit("resnet8(width=4)", "digits", out=old, **SAME)
    result = lc.fit("resnet8(width=4)", "digits", out=old, resume=True, **SAME)
    noted = json.loads((OLD / "summary.json").read_text())
    assert result.scores.top1_pct == pytest.approx(noted["test"]["top1_pct"], abs=0.6)
    assert result.history == [json.loads(line) for line in (OLD / "metrics.jsonl").read_text().splitlines()]


def test_other_settings_are_refused(old: Path) -> None:
    with pytest.raises(SettingError, match=r"train.lr is 0.05 there and 0.1 here"):
        lc.fit("resnet8(width=4)", "digits", out=old, lr=0.1, **SAME)


def test_it_joins_a_comparison(old: Path, tmp_path: Path) -> None:
    folder = tmp_path / "comparison" / "tied_block-blocks=2" / "seed0"
    shutil.copytree(old, folder)
    found = lc.compare(
        "resnet8(width=4)", ["dense", SAME["method"]], out=tmp_path / "comparison", keep_stem=False, latency=False,
        **{name: value for name, value in SAME.items() if name != "method"},
    )  # fmt: skip
    assert found.rows[1]["test_top1_pct"] == json.loads((OLD / "summary.json").read_text())["test"]["top1_pct"]


def test_its_config_gives_the_settings() -> None:
    settings, more = read_config(OLD / "config.yaml")
    assert (
        TrainConfig(**settings).to_json()
        == TrainConfig(epochs=2, batch_size=32, lr=0.05, augment="crop", precision="bf16", threads=1).to_json()
    )
    assert more == {"data": "digits"}
