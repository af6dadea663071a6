"""Searches from several dense networks: means, losses and their spread."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from leanconv.report.results import FIGURES, TABLES

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "lean_seeds.py"


def row(network: str, params: int, ratio: float, test: float, validation: float) -> dict[str, Any]:
    setting = {"runtime": "openvino", "batch": 1, "threads": 1}
    return {
        "network": network, "params": params, "macs": 10 * params, "ratio": ratio, "test_top1_pct": test,
        "quality": validation, **setting,
    }  # fmt: skip


SEARCHES = [
    [row("dense", 100, 1.0, 94.0, 93.0), row("lean", 40, 0.5, 93.5, 92.0), row("pruned", 50, 0.5, 89.0, 88.0)],
    [row("dense", 100, 1.0, 93.0, 94.0), row("lean", 50, 0.4, 92.0, 93.8)],
]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return runpy.run_path(str(SCRIPT))["gathered"](SEARCHES)


def test_losses_are_against_the_dense_network_of_the_same_search(rows):
    dense, lean, pruned = rows
    assert lean["n"] == 2 and lean["test_top1_pct"] == 92.75
    assert lean["test_top1_lost_by_seed"] == [0.5, 1.0] and lean["test_top1_lost"] == 0.75
    assert lean["validation_lost"] == pytest.approx(0.6)
    assert (lean["params_ratio"], lean["latency_ratio"]) == (pytest.approx(0.45), pytest.approx(0.45))
    assert pruned["n"] == 1 and pruned["test_top1_lost"] == 5.0 and pruned["test_top1_lost_std"] is None
    assert dense["test_top1_lost_by_seed"] == [0, 0]


def test_the_table_and_the_figure(rows):
    lines = TABLES["lean_seeds"]["main"](rows).splitlines()
    lean = next(line for line in lines if line.startswith("| lean"))
    assert "92.75 ± 1.06 | 0.75 ± 0.35 | 0.60 ± 0.57 | 2" in lean
    assert "| 5.00 | 5.00 | 1" in next(line for line in lines if line.startswith("| pruned"))
    svg = FIGURES["lean_seeds"]["accuracy"](rows)
    assert svg is not None and "lean (n = 2)" in svg and "pruned (n = 1)" in svg


def test_other_settings_are_refused(tmp_path, monkeypatch, capsys):
    settings = {
        "network": "a",
        "methods": [],
        "where": [],
        "exclude": [],
        "data": {"name": "cifar10"},
        "config": {"seed": 0},
    }
    for name, share in (("one.json", 0.5), ("two.json", 0.25)):
        found = {"machine": {"cpu": "x"}, "settings": settings | {"budget": {"time": share}}, "rows": SEARCHES[0]}
        (tmp_path / name).write_text(json.dumps(found))
    names = [str(tmp_path / name) for name in ("one.json", "two.json")]
    monkeypatch.setattr(sys, "argv", ["lean_seeds.py", *names, "-o", str(tmp_path / "both.json")])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "two.json has another budget than one.json" in capsys.readouterr().err
    assert not (tmp_path / "both.json").exists()
    monkeypatch.setattr(sys, "argv", ["lean_seeds.py", names[0], names[0], "-o", str(tmp_path / "both.json")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert json.loads((tmp_path / "both.json").read_text())["kind"] == "lean_seeds"
