"""Tables of memory, of int8 networks and of the tool's own speed."""

from __future__ import annotations

from leanconv.report.results import TABLES

MIB = 10**6


def test_memory_of_networks_compares_within_a_runtime_form_and_batch():
    def row(network: str, form: str, working: int) -> dict[str, object]:
        return {"part": "network", "network": network, "runtime": "openvino", "form": form, "batch": 1, "weights_bytes": 5 * MIB,
                "file_bytes": None, "working_bytes": working * MIB, "peak_bytes": 2 * working * MIB}  # fmt: skip

    rows = [row("dense", "fast", 100), row("dense", "compact", 80), row("lean", "fast", 50), row("lean", "compact", 20)]
    lines = TABLES["memory"]["main"](rows).splitlines()
    fast, compact = (next(line for line in lines if "lean" in line and form in line) for form in ("fast", "compact"))
    assert "50.00 MB | 0.50 | 100.00 MB | 0.50" in fast and "20.00 MB | 0.25" in compact


def test_memory_of_layers_compares_with_dense_on_the_same_shape():
    def row(method: str, channels: int, maps: int) -> dict[str, object]:
        return {"part": "layer", "channels": channels, "side": 7, "method": method, "form": "f", "batch": 2,
                "weights_bytes": MIB, "maps_bytes": maps * MIB, "peak_bytes": None}  # fmt: skip

    rows = [row("dense", 64, 1), row("split", 64, 2), row("dense", 256, 4), row("split", 256, 6)]
    text = TABLES["memory"]["layers"](rows)
    assert "| split | f | 1.00 / 1.00 | 2.00 / 1.50 | – / – |" in text
    assert "64 channels on 7x7, 256 channels on 7x7; batch 2" in text


def test_int8_networks_stand_beside_their_float32():
    def row(weights: str, ms: float, own: float, dense: float) -> dict[str, object]:
        return {"batch": 1, "network": "n", "weights": weights, "macs": 10**9, "file_bytes": MIB, "latency_ms": ms,
                "latency_ms_q25": ms, "latency_ms_q75": ms, "of_float32": own, "of_dense": dense}  # fmt: skip

    text = TABLES["int8"]["networks"]([row("float32", 20.0, 1.0, 0.8), row("int8", 9.0, 0.45, 0.9)])
    assert text.splitlines()[2].endswith("| 20.00 (20.00-20.00) | 0.80 | 9.00 (9.00-9.00) | 0.90 | 0.45 |")


def test_steps_of_the_tool_stand_beside_their_budgets():
    def row(network: str, step: str, seconds: float, late: bool) -> dict[str, object]:
        return {"network": network, "step": step, "step_seconds": seconds, "budget_seconds": 1.0, "late": late}

    lines = TABLES["tool"]["main"]([row("", "import", 0.5, False), row("chain 200", "plan", 2.0, True)]).splitlines()
    assert lines[0] == "| Step | no network | chain 200 |"
    assert "| import | 0.50 (1) | – |" in lines and "| plan | – | 2.00 (1) late |" in lines


def test_a_profile_shows_speeds_where_it_has_them():
    row = {"network": "n", "precision": "float32", "layer": "Convolution 1x1", "layer_ms": 2.0, "share": 0.5}
    assert "GMAC/s" not in TABLES["profile"]["main"]([row])
    assert "| 0.50 | 7 | 120 |" in TABLES["profile"]["main"]([row | {"layers": 7, "gmac_per_s": 120.4}])
