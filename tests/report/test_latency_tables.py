"""Measured times as tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leanconv.core.errors import SettingError
from leanconv.report import latency_tables, markdown_of


def row(network: str, ms: float, best: bool, failed: str | None = None) -> dict:
    timed = {"latency_ms": ms, "latency_ms_q25": ms - 0.1, "latency_ms_q75": ms + 0.1}
    timed |= {"ratio": ms / 2, "ratio_q25": ms / 2 - 0.01, "ratio_q75": ms / 2 + 0.01}
    about = {"batch": 1, "network": network, "runtime": "eager", "form": "as it is", "params": 1234, "macs": 5_600_000}
    return about | {"best": best, "failed": failed} | ({} if failed else timed)


ROWS = [
    row("dense", 2.0, True),
    row("dense", 3.0, False),
    row("lean", 1.5, True),
    row("lean", 0, False, "no such operation"),
]


def test_every_row_and_the_failed_one() -> None:
    lines = latency_tables.markdown(ROWS).splitlines()
    assert lines[0].startswith("| Batch | Network | Runtime | Form |")
    assert lines[2] == "| 1 | dense | eager | as it is | 1,234 | 5.6 M | 1.00 | 2.00 (1.90-2.10) | 1.00 (0.99-1.01) |"
    assert lines[5].endswith("| failed | no such operation |")
    assert "ratios of time compare with the fastest entry" in lines[7]


def test_only_the_best(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"kind": "latency", "rows": ROWS}))
    text = markdown_of(path, "best")
    assert text == latency_tables.markdown([ROWS[0], ROWS[2]])
    assert markdown_of(path) == latency_tables.markdown(ROWS)
    with pytest.raises(SettingError, match="has no table 'worst'; it has main, best"):
        markdown_of(path, "worst")


def test_the_best_are_bold() -> None:
    table = latency_tables.table(ROWS, "times").__rich__()
    assert [drawn.style for drawn in table.rows] == ["bold", None, "bold", None]


def test_sentences_compare_the_fastest_entries() -> None:
    (found,) = latency_tables.sentences(ROWS)
    assert found.startswith("Batch 1: lean is faster than dense: 0.75 of its time (quartiles 0.74-0.76)")
    slower = [row("dense", 2.0, True), row("lean", 2.1, True), row("same", 2.01, True)]
    assert [sentence.split(": ")[1] for sentence in latency_tables.sentences(slower)] == [
        "lean is slower than dense",
        "same is not clearly faster or slower than dense",
    ]


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        ({"ratio_low": 0.70, "ratio_high": 0.72}, "is faster than dense: 0.75 of its time (95 % interval 0.70-0.72)"),
        ({"ratio_low": 0.7, "ratio_high": 1.02}, "is not clearly faster or slower than dense: 0.75 of its time"),
        ({"ratio_low": None, "ratio_high": None}, "takes 0.75 of the time of dense in 5 rounds, too few to tell"),
        ({"ratio_low": 0.7, "ratio_high": 0.8, "busy": 0.6}, "may be faster than dense: 0.75"),
    ],
)
def test_the_interval_decides_and_not_the_quartiles(measured: dict, says: str) -> None:
    (found,) = latency_tables.sentences([row("dense", 2.0, True), row("lean", 1.5, True) | {"rounds": 5} | measured])
    assert found.startswith(f"Batch 1: lean {says}")


def test_there_are_no_ratios_of_time_to_a_network_that_failed() -> None:
    rows = [row("dense", 0, False, "no such operation"), row("lean", 1.5, True)]
    assert latency_tables.sentences(rows) == []
    assert latency_tables.texts(rows)[1][-2:] == ["1.50 (1.40-1.60)", "–"]
