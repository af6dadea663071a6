"""Detectors trained and evaluated, as results to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanconv.core.machine import provenance
from leanconv.report import detection
from leanconv.report.page import Page, table_page
from leanconv.report.result import Result, TextTable
from leanconv.report.tables import Row
from leanconv.train.once import history


@dataclass(frozen=True)
class DetectRun(Result):
    """A trained detector: counts, what training gave, and average precision.

    Args:
        summary: as in the folder's summary.json; identity: what decided it; data: the photos' name.
    """

    summary: dict[str, Any]
    identity: dict[str, Any]
    folder: Path
    data: str
    command: str = ""

    @property
    def rows(self) -> Sequence[Row]:
        return [self.summary]

    def to_json(self) -> dict[str, Any]:
        """As in summary.json."""
        return self.summary

    def table(self) -> TextTable:
        heads, cells = detection.table(self.rows)
        title = f"{self.summary['label']}, on the {self.summary['val']['part']} part of {self.data}"
        return TextTable(heads, cells, note=detection.NOTE, title=title)

    def sentences(self) -> Sequence[str]:
        counts = self.summary["counts"]
        return [
            f"{counts['params']:,} parameters, {counts['backbone_params']:,} of them the backbone's; saved in {self.folder}"
        ]

    def page(self) -> Page:
        """The table, the losses of each epoch and the settings."""
        facts = provenance(self.command) | {"settings": self.identity}
        heads, cells = detection.table(self.rows)
        return table_page(
            self.summary["label"], f"leanconv detect train, {facts['created']}", heads, cells, notes=detection.NOTE,
            sections=[("Training", [detection.losses(history(self.folder))])], summary=facts,
        )  # fmt: skip


@dataclass(frozen=True)
class Precision(Result):
    """Average precision of detectors, side by side, overall and by how much the objects of a photo overlap.

    Args:
        summary: what was asked, the machine, and a row for each detector.
    """

    summary: dict[str, Any]

    @property
    def rows(self) -> Sequence[Row]:
        rows: list[Row] = self.summary["rows"]
        return rows

    @property
    def by(self) -> str:
        """Occlusion by "masks", "boxes" or "none"."""
        return str(self.summary["settings"]["occlusion"])

    def to_json(self) -> dict[str, Any]:
        return self.summary

    def table(self) -> TextTable:
        heads, cells = detection.table(self.rows)
        asked = self.summary["settings"]
        title = f"{asked['data']}, {asked['part']}: {self.rows[0]['val']['photos']} photos"
        return TextTable(heads, cells, note=detection.NOTE, title=title)

    def tables(self) -> Sequence[TextTable]:
        """All photos, and those of each occlusion ratio."""
        if self.by == "none":
            return (self.table(),)
        heads, cells = detection.slices(self.rows)
        note, title = detection.OCCLUSION_NOTE, f"Under occlusion, by {self.by}"
        return (self.table(), TextTable(heads, cells, note=note, title=title))

    def page(self) -> Page:
        kinds = list(dict.fromkeys(kind for run in self.rows for kind in run["val"]["metrics"]))
        occluded = [detection.occlusion_figure(self.rows, kind, metric) for kind in kinds for metric in ("AP", "AP75")]
        sizes = [detection.backbone_figure(self.rows, kind) for kind in kinds]
        drawn = {f"Under occlusion, by {self.by}": occluded, "Parameters": sizes}
        sections = [(title, [figure for figure in figures if figure]) for title, figures in drawn.items()]
        heads, cells = detection.table(self.rows)
        names, rows = detection.measures(self.rows)
        notes = detection.NOTE if self.by == "none" else f"{detection.NOTE} {detection.OCCLUSION_NOTE}"
        asked = self.summary["settings"]
        subtitle = f"leanconv detect eval, {asked['part']} part, {self.summary['created']}"
        facts = {name: value for name, value in self.summary.items() if name != "settings"}
        return table_page(
            f"Detectors on {asked['data']}", subtitle, heads, cells, notes=notes,
            sections=[section for section in sections if section[1]], names=names, rows=rows, summary=facts,
        )  # fmt: skip
