"""Results of library calls: tables, JSON, DataFrames and pages."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from leanconv.core.errors import SettingError
from leanconv.report import result as module
from leanconv.report.page import Page, table_page
from leanconv.report.result import Result, TextTable


class Two(Result):
    """Two rows, one with a name from outside."""

    @property
    def rows(self) -> list[dict[str, object]]:
        return [{"name": "<b>a</b>", "ms": 1.5}, {"name": "b", "ms": 20.0}]

    def table(self) -> TextTable:
        return TextTable(("Name", "ms"), [[str(row["name"]), f"{row['ms']:.1f}"] for row in self.rows], note="Medians.")

    def page(self) -> Page:
        table = self.table()
        return table_page("Two", "", table.heads, table.cells, notes=table.note)


def test_prints_as_columns() -> None:
    assert str(Two()).splitlines() == ["Name        ms", "<b>a</b>   1.5", "b         20.0", "Medians."]
    assert doctest.testmod(module).failed == 0


def test_is_a_table_in_a_notebook_with_names_escaped() -> None:
    html = Two()._repr_html_()
    assert html.count("<tr>") == 3
    assert "&lt;b&gt;a&lt;/b&gt;" in html
    assert "<b>" not in html


def test_columns_are_aligned_by_number_or_heading() -> None:
    table = TextTable(("A", "B", "C"), [["1", "2", "x"]], left=("A", "C"))
    assert table.markdown().splitlines()[1] == "| --- | --: | --- |"
    assert [column.justify for column in table.__rich__().columns] == ["left", "right", "left"]


def test_rows_become_a_data_frame() -> None:
    pytest.importorskip("pandas")
    frame = Two().to_pandas()
    assert list(frame.columns) == ["name", "ms"]
    assert frame.ms.sum() == 21.5


def test_without_pandas_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(SettingError, match=r"pip install 'leanconv\[pandas\]'"):
        Two().to_pandas()


def test_report_writes_the_page_and_says_where(tmp_path: Path) -> None:
    path = Two().report(tmp_path / "page.html")
    assert "Medians." in path.read_text(encoding="utf-8")
