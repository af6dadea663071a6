"""The tables of large data and long runs, and what is computed from the measured rates."""

from __future__ import annotations

import pytest

from leanconv.report.results import TABLES

INPUT = {
    "part": "input",
    "file_bytes": 100_000,
    "images": 640,
    "n": 5,
    "images_per_s_q25": 90.0,
    "images_per_s_q75": 110.0,
}
STEP = {"part": "step", "macs": 4_000_000_000, "params": 25_000_000, "stored_bytes": 80_000_000, "precision": "fp32"}
IMAGENET = [
    {**INPUT, "images_per_s": 100.0},
    {**STEP, "network": "dense", "images_per_s": 4.0},
    {**STEP, "network": "lean", "images_per_s": 5.0},
    {**STEP, "network": "dense", "images_per_s": 8.0, "precision": "bf16"},
    {**STEP, "network": "lean", "images_per_s": 12.0, "precision": "bf16"},
]


def cells(table: str, kind: str, rows: list[dict[str, object]]) -> list[list[str]]:
    lines = TABLES[kind][table](rows).split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_input_and_steps() -> None:
    assert cells("input", "imagenet", IMAGENET) == [["100 (90–110)", "100.0 kB"]]
    steps = cells("steps", "imagenet", IMAGENET)
    assert [line[:2] for line in steps] == [["dense", "fp32"], ["lean", "fp32"], ["dense", "bf16"], ["lean", "bf16"]]
    assert [line[5] for line in steps] == ["1.00", "1.25", "1.00", "1.50"]
    assert steps[0][6:] == ["80.00 MB", "300.00 MB"]


def test_what_eight_gpus_need_follows_from_one_core() -> None:
    """At 2,000 images a second each: 16,000 together, 160 cores, 1,600 MB/s, and 90 x 1,281,167 / 16,000 s = 2.0 h."""
    line = next(line for line in cells("needs", "imagenet", IMAGENET) if line[0] == "2,000")
    assert line[1:] == ["16,000", "160", "1,600 MB/s", "2.0 h"]


@pytest.mark.parametrize("work", ["records", "runs", "convolutions"])
def test_long_runs(work: str) -> None:
    (line,) = cells(
        "main", "scale", [{"work": work, "count": 2000, "seconds": 1.75, "cpu_seconds": 1.5, "bytes": 3_000_000}]
    )
    assert line[0] == "2,000" and line[2:] == ["1.8 s", "1.5 s", "3.00 MB"]


def test_opening() -> None:
    row = {"source": "files", "images": 300_000, "seconds": 132.0, "cpu_seconds": 60.0, "bytes": 60_000_000}
    assert cells("main", "data_index", [row]) == [["files", "300,000", "2.2 min", "60.0 s", "60.00 MB", "200"]]
