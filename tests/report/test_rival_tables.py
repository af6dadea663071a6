"""The table and the figure of networks beside their rivals."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from leanconv.report import rival_tables
from leanconv.report.results import FIGURES, TABLES

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def row(network: str, macs: int, ms: float, **more: object) -> dict[str, object]:
    known = {"published_top1_pct": None, "published_px": None, "published_source": None}
    latency = {"latency_ms": ms, "latency_ms_q25": ms, "latency_ms_q75": ms}
    ratios = {"ratio": ms / 20, "ratio_q25": ms / 20, "ratio_q75": ms / 20}
    base = {"batch": 1, "network": network, "macs": macs, "best": True, **latency, **ratios}
    return {**base, **known, **more}


ROWS = [
    row("ResNet-50", 4_000_000_000, 20.0, published_top1_pct=80.4, published_px=224),
    row("lean", 2_000_000_000, 12.5),
    row("slower form", 2_000_000_000, 14.0, best=False),
    row("ResNet-50", 4_000_000_000, 320.0, batch=16),
]


def test_the_table_has_accuracy_and_speed():
    lines = TABLES["rivals"]["main"](ROWS).splitlines()
    dense = next(line for line in lines if "ResNet-50" in line)
    lean = next(line for line in lines if "lean" in line)
    assert "80.4 | 224" in dense and dense.rstrip(" |").endswith("200")
    assert "0.50" in lean and lean.rstrip(" |").endswith("160")
    assert not any("slower form" in line for line in lines)


def test_the_figure_draws_lines_of_equal_speed():
    drawn = FIGURES["rivals"]["speed"](ROWS)
    assert drawn is not None and drawn == rival_tables.figure(ROWS)
    said = re.sub(r"<[^>]+>", " ", drawn)
    assert "200 GMAC/s" in said and "160 GMAC/s" in said and "batch 16" in said
    assert rival_tables.figure([]) is None


def test_each_published_accuracy_names_a_timed_network_and_its_source(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    networks = runpy.run_path(str(BENCHMARKS / "rivals.py"), run_name="rivals")["NETWORKS"]
    published = json.loads((BENCHMARKS / "rivals.json").read_text())
    assert set(published["networks"]) <= set(networks)
    assert all(0 < known["top1_pct"] < 100 and known["source"] for known in published["networks"].values())
