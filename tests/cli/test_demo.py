"""The demo: the same steps with a budget that needs no measured times, and once as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from leanconv.cli import demo


def test_demo_makes_a_trained_network_lean(call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TARGET": "fast_vgg(width=0.125)", "BUDGET": "macs=0.5", "CONTROLS": "pruned"}.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr("leanconv.budget.flow.FINAL_SECONDS", 0.02)
    monkeypatch.setattr(demo, "find_spec", lambda name: None)  # without a runtime there is no file to export
    out = tmp_path / "demo"
    answer = call("demo", "--out", out, "--epochs", 1)
    assert answer.code == 0, answer.err
    rows = {row["network"]: row for row in json.loads((out / "lean" / "summary.json").read_text())["rows"]}
    assert [*rows] == ["dense", "lean", "pruned"]
    assert max(rows["lean"]["macs"], rows["pruned"]["macs"]) <= 0.5 * rows["dense"]["macs"]
    assert (out / "lean" / "report.html").exists() and "pruned" in answer.out
    assert f"leanconv lean {out / 'dense'} --data digits --budget macs=0.5" in answer.err.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo_halves_the_time_and_keeps_the_accuracy(call: Callable, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    assert call("demo", "--out", out).code == 0
    dense, lean, *_ = json.loads((out / "lean" / "summary.json").read_text())["rows"]
    assert lean["ratio"] <= 0.6 and lean["test_top1_pct"] >= dense["test_top1_pct"] - 1.5
