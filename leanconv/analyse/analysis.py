"""The result of an analysis."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanconv.analyse.figure import save_figure, svg_of
from leanconv.core.machine import provenance
from leanconv.report.page import Page, table_page
from leanconv.report.result import Result
from leanconv.report.tables import Row
from leanconv.report.text_table import TextTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Analysis(Result):
    """The result of an analysis: arrays as plain values, a figure, and a table.

    Args:
        found: the values, by network.
        figure: the figure, which `save` writes and a notebook shows.
        heads, cells: the headings and cells of the table; the first two columns are text.
        what: the name of the analysis.
        names: the names of the networks or folders.
        settings, command: the settings and the command line that the page shows.
    """

    found: Mapping[str, Any]
    figure: Figure
    heads: Sequence[str]
    cells: Sequence[Sequence[str]]
    what: str = ""
    names: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""

    @property
    def rows(self) -> Sequence[Row]:
        """The table's cells under their headings."""
        return [dict(zip(self.heads, line, strict=True)) for line in self.cells]

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "networks": dict(self.found)}

    def table(self) -> TextTable:
        return TextTable(self.heads, self.cells, 2)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure in the format of the suffix (.svg, .png or .pdf), and return the path."""
        return save_figure(self.figure, path)

    def page(self) -> Page:
        facts = provenance(self.command) | {"settings": self.settings}
        subtitle = f"leanconv analyse --what {self.what}, {facts['created']}"
        sections = [(self.what.capitalize(), [svg_of(self.figure)])]
        title = " and ".join(self.names)
        return table_page(title, subtitle, self.heads, self.cells, left=2, sections=sections, summary=facts)
