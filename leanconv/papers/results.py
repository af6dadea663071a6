"""Trained rows beside the printed ones, and how they are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanconv.papers.rows import Accuracy
from leanconv.report.detection import percent
from leanconv.report.page import Page, table_page
from leanconv.report.result import Result, TextTable
from leanconv.report.tables import Row, integer, macs, spread


@dataclass(frozen=True)
class Settings:
    """How rows are trained.

    Args:
        scale: part of the published epochs; changes: settings in place of the recipe's.
        out: folder of all trained rows; command: for the results.
    """

    scale: float
    seeds: tuple[int, ...]
    changes: Mapping[str, Any]
    device: str
    out: Path
    progress: bool
    command: str

    def folder(self, row: Accuracy) -> Path:
        """Where the rows of a paper and a data set are kept."""
        return self.out / f"{row.paper}-{row.dataset}-scale{self.scale:g}"


@dataclass(frozen=True)
class Trained(Result):
    """Trained rows, each beside the printed figure.

    Args:
        summary: as in the folder's summary.json.
    """

    summary: dict[str, Any]
    folder: Path
    note: str

    @property
    def rows(self) -> Sequence[Row]:
        rows: list[Row] = self.summary["rows"]
        return rows

    def to_json(self) -> dict[str, Any]:
        """As in summary.json."""
        return self.summary

    def table(self) -> TextTable:
        detectors = any("detector" in row and "backbone_params" in row for row in self.rows)
        heads, cells = (_of_detectors if detectors else _of_classifiers)(self.rows)
        return TextTable(heads, cells, 3, self.note)

    def sentences(self) -> Sequence[str]:
        return [f"written: {self.folder / 'summary.json'}"]

    def page(self) -> Page:
        table = self.table()
        return table_page(
            "Printed accuracies and ours", f"leanconv reproduce --train, {self.summary['created']}", table.heads,
            table.cells, notes=self.note, left=3, summary=self.summary,
        )  # fmt: skip


def _of_classifiers(rows: Sequence[Row]) -> tuple[Sequence[str], list[list[str]]]:
    heads = ("Row", "Network", "Metric", "Printed", "Ours", "n", "Parameters", "MACs")
    cells = []
    for row in rows:
        deviation = row["test_top5_pct_std"] if row["metric"] == "top5" else row["test_top1_pct_std"]
        texts = [row["row"], row["network"], row["metric"], row["printed"], spread(row["ours"], deviation)]
        cells.append([*texts, str(row["n"]), integer(row["params"]), macs(row["macs"])])
    return heads, cells


def _of_detectors(rows: Sequence[Row]) -> tuple[Sequence[str], list[list[str]]]:
    heads = ("Row", "Backbone", "Metric", "Printed", "Ours", "Parameters", "of the backbone")
    names, numbers = ("row", "network", "metric", "printed"), ("params", "backbone_params")
    cells = [
        [*(row[name] for name in names), percent(row["ours"]), *(integer(row[name]) for name in numbers)]
        for row in rows
    ]
    return heads, cells
