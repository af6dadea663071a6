"""The table in its three forms."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from leanconv.core.errors import FileError, SettingError
from leanconv.report import markdown_of, tables

from .sample import DENSE, ROWS, row, summary


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (442_368, "442.4 k"), (40_813_184, "40.81 M"), (4_089_184_256, "4.089 G"), (None, "–")],
)
def test_macs(value: int | None, text: str) -> None:
    assert tables.macs(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(436_928, "436.9 kB"), (1_096_336, "1.10 MB"), (102_441_032, "102.44 MB"), (None, "–")]
)
def test_size(value: int | None, text: str) -> None:
    assert tables.size(value) == text


@pytest.mark.parametrize(("value", "text"), [(8.31, "8.3 s"), (3000, "50.0 min"), (36000, "10.00 h"), (None, "–")])
def test_duration(value: float | None, text: str) -> None:
    assert tables.duration(value) == text


def test_times_are_sorted_by_their_length() -> None:
    seconds = [0.5, 8.3, 119.0, 120.0, 2604.0, 7199.0, 7200.0, 36000.0]
    found = [tables.leading_number(tables.duration(value)) for value in seconds]
    assert found == pytest.approx(seconds, rel=0.01)
    assert [tables.leading_number(text) for text in ("3 hits", "2 minutes", "5 m", "1.2 kB")] == [3, 2, 5, 1200]


def test_spread_needs_two_seeds() -> None:
    assert tables.accuracy_cell(DENSE) == "91.20 ± 0.40"
    assert tables.accuracy_cell(row("dense", (91.0,))) == "91.00"


def test_failures_stand_in_the_table() -> None:
    assert tables.accuracy_cell(ROWS[2]) == "failed: seed 0: the loss is not finite <script>|*"
    partly = row("split", (89.0,), failed="seed 1: why")
    assert tables.accuracy_cell(partly) == "89.00; failed: seed 1: why"


def test_columns_without_values_are_left_out() -> None:
    bare = [{**DENSE, "val_top1_pct": None, "latency_ms": None}]
    heads = tables.cells(bare)[0]
    assert not {"Validation top-1 %", "Latency ms"} & set(heads)
    assert {"Validation top-1 %", "Latency ms"} <= set(tables.cells(ROWS)[0])


def test_markdown_keeps_its_columns() -> None:
    lines = tables.markdown(ROWS).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(ROWS)
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "1 MAC = one multiply-add" in lines[-1]
    assert "Ratios compare with dense." in lines[-1]


def test_terminal_shows_markup_as_it_is() -> None:
    out = io.StringIO()
    Console(file=out, width=250).print(tables.rich_table([DENSE, row("[bold]x[/bold]", (1.0,))]))
    assert "[bold]x[/bold]" in out.getvalue()


def test_markdown_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(summary()))
    assert markdown_of(path) == markdown_of(str(path), table="main") == tables.markdown(ROWS)
    with pytest.raises(SettingError, match="no table 'other'; it has main"):
        markdown_of(path, "other")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{"method": "dense"}]}', '{"rows": 3}'])
def test_markdown_of_something_else(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(FileError, match=r"^summary\.json"):
        markdown_of(tmp_path / "summary.json")
    with pytest.raises(FileError, match="absent"):
        markdown_of(tmp_path / "absent.json")
