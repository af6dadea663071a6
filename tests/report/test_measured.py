"""Tables and figures of measured layers, steps and growth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leanconv.core.errors import FileError, SettingError
from leanconv.report import growth, layer_tables, markdown_of, results


def layer(family: str, shape: str, batch: int, found: float) -> dict[str, object]:
    return {
        "family": family, "shape": shape, "batch": batch, "runtime": "packed", "precision": "float32", "form": "grouped",
        "macs_ratio": 0.5, "dense_ms": 1.0, "lean_ms": found, "ratio": found, "ratio_q25": found, "ratio_q75": found,
        "rounds": 5,
    }  # fmt: skip


LAYERS = [
    layer("tied", "a", 1, 0.4),
    layer("tied", "b", 1, 0.9),
    layer("tied", "a", 32, 0.5),
    layer("split", "a", 1, 2.0),
]
POINTS = [
    {
        "axis": axis, "value": value, "method": method, "params": 10, "macs": macs, "latency_ms": value * macs / 100,
        "latency_ms_q25": 1.0, "latency_ms_q75": 2.0, "ratio": macs / 100, "ratio_q25": 0.5, "ratio_q75": 1.0,
        "peak_bytes": memory, "rounds": 5,
    }
    for axis, value in (("batch", 1), ("batch", 4), ("width", 16))
    for method, macs, memory in (("dense", 100, 4_000_000), ("tied", 50, None))
]  # fmt: skip


def test_layers_are_summed_up_by_their_geometric_mean():
    total = layer_tables.summary(LAYERS)
    assert [(row["family"], row["batch"]) for row in total] == [("tied", 1), ("tied", 32), ("split", 1)]
    assert total[0]["ratio"] == pytest.approx(0.6) and total[0]["worst"] == 0.9 and total[0]["worst_shape"] == "b"
    table = layer_tables.markdown(LAYERS)
    assert "| tied | 0.50 | 0.60 (worst 0.90) | 0.50 (worst 0.50) |" in table
    assert "| split | 0.50 | 2.00 (worst 2.00) | – |" in table
    assert layer_tables.markdown_of_shapes(LAYERS).count("| tied |") == 3


def test_predictions_beside_what_was_measured():
    row = {
        "network": "a",
        "method": "b",
        "batch": 1,
        "dense_ms": 3,
        "predicted_ms": 1.9,
        "lean_ms": 2,
        "predicted_off": -0.05,
    }
    assert "| a | b | 1 | 3.00 | 1.90 | 2.00 | -5 % |" in layer_tables.markdown_of_predictions([row])


def test_steps_are_compared_with_the_first():
    row = {"method": "dense", "threads": 1, "params": 10, "macs": 100, "step_ms": 50.0, "step_ms_q25": 49.0,
           "step_ms_q75": 51.0, "step_ratio": 1.0, "images_per_s": 2560.4}  # fmt: skip
    table = layer_tables.markdown_of_steps([row, {**row, "method": "split", "macs": 40, "step_ratio": 1.7}])
    assert "| split | 1 | 10 | 40 | 0.40 | 50.00 (49.00-51.00) | 1.70 | 2,560 |" in table


def test_growth_is_compared_at_the_same_point():
    table = growth.markdown(POINTS)
    assert "| batch 4 | tied | 0.50 | 2.00 (1.00-2.00) | 0.50 (0.50-1.00) | – | – |" in table
    assert "| width 16 | dense | 1.00 | 16.00 (1.00-2.00) | 1.00 (0.50-1.00) | 4.00 MB | 1.00 |" in table


@pytest.mark.parametrize("measure", growth.MEASURES)
def test_growth_is_drawn_with_a_plot_for_each_setting(measure: str):
    drawn = growth.figure(POINTS, measure)
    assert drawn.startswith("<svg") and ">batch<" in drawn and ">width<" in drawn and ">tied<" in drawn
    assert drawn == growth.figure(POINTS, measure)
    with pytest.raises(SettingError, match="'watts' must be one of latency_ms, peak_bytes"):
        growth.figure(POINTS, "watts")


def test_a_results_file_gives_its_tables_and_figures(tmp_path: Path):
    path = tmp_path / "growth-2026-01-02.json"
    path.write_text(json.dumps({"kind": "growth", "rows": POINTS}))
    assert markdown_of(path).startswith("| Setting |")
    figures = results.figures_of(path)
    assert list(figures) == ["time", "memory"]
    assert all(results.source_mark(path) in svg and "currentColor" not in svg for svg in figures.values())
    (tmp_path / "layers.json").write_text(json.dumps({"kind": "layers", "rows": LAYERS}))
    assert results.figures_of(tmp_path / "layers.json") == {}
    assert "worst" in markdown_of(tmp_path / "layers.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(FileError, match=r"broken\.json is not a results file"):
        results.figures_of(tmp_path / "broken.json")
