"""The papers' printed figures beside ours: counted here, or trained towards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leanconv.core.errors import SettingError
from leanconv.data import ImageData
from leanconv.papers import catalogue, tables
from leanconv.papers.results import Settings, Trained
from leanconv.papers.rows import PrintedCount
from leanconv.report.page import Page, table_page
from leanconv.report.result import Result
from leanconv.report.tables import Row
from leanconv.report.text_table import TextTable


@dataclass(frozen=True)
class Counted(Result):
    """Printed figures of parameters and MACs, and what is counted on the networks built here.

    Args:
        printed: the papers' cells, each with how ours is counted.
        paper: the one that was asked for; None for all.
    """

    printed: Sequence[PrintedCount]
    paper: str | None = None
    command: str = ""

    @property
    def rows(self) -> Sequence[Row]:
        return [row.to_json() for row in self.printed]

    def table(self) -> TextTable:
        """All rows, with their paper in front."""
        cells = [(row.paper, *tables.cells(row)) for row in self.printed]
        return TextTable(("Paper", *tables.HEADS), cells, ("Paper", *tables.TEXTS), tables.NOTE)

    def tables(self) -> Sequence[TextTable]:
        """One table a paper."""
        return [
            TextTable(
                tables.HEADS,
                [tables.cells(row) for row in own],
                tables.TEXTS,
                tables.NOTE,
                f"{title}: {tables.summary(own)}",
            )
            for name, title in catalogue.PAPERS.items()
            if (own := [row for row in self.printed if row.paper == name])
        ]

    def sentences(self) -> Sequence[str]:
        """How many agree."""
        return [tables.summary(self.printed)]

    def page(self) -> Page:
        title = catalogue.PAPERS[self.paper] if self.paper else "Four papers, printed and counted"
        table, notes = self.table(), f"{tables.summary(self.printed)} {tables.NOTE}"
        facts = {"command": self.command}
        return table_page(title, "leanconv reproduce", table.heads, table.cells, notes=notes, left=4, summary=facts)


def reproduce(
    paper: str | None = None,
    table: str | None = None,
    *,
    train: str | None = None,
    scale: float = 1.0,
    data: ImageData | str | None = None,
    data_root: Path | None = None,
    download: bool = False,
    backbone: str | os.PathLike[str] | None = None,
    seeds: Sequence[int] = (0,),
    precision: str | None = None,
    threads: int | None = None,
    device: str = "auto",
    out: str | os.PathLike[str] = "runs/reproduce",
    progress: bool = True,
    command: str = "leanconv.reproduce(...)",
) -> Counted | Trained | None:
    """Count every network of the papers and compare with print; with `train`, train towards a printed accuracy.

    Our side is always counted on the network built here. A trained row follows the paper's recipe, its epochs shortened by
    `scale`, and is tested once, after the last epoch.

    Args:
        paper: tbc, filter_bases, shardnet or spconv; None for all four.
        table: one table of the paper: "1", "2", ...
        train: the printed accuracies to train for: a row's name, or a glob that matches it.
        scale: part of the published epochs to train for.
        data: the images, by name or folder, or an `ImageData`; None takes the paper's, if they are available.
        data_root, download: see `leanconv.data.open_data`.
        backbone: folder of a trained backbone, for a detector's row; None starts from scratch.
        seeds: one run of each row for each.
        precision, threads: in place of the recipe's.
        out: folder of the trained rows.
        progress: say on standard error how training goes.
        command: what the result says that it was made by.

    Returns:
        the figures; None in all processes of a training but the first.

    Raises:
        SettingError: an unknown paper, table or row, data that are not there, or a setting of the training without `train`.

    >>> print(reproduce("spconv", "4").sentences()[0])
    10 printed figures. Counted on our networks: 6 equal, 4 truncated.
    """
    if train is not None:
        from leanconv.papers.training import train_printed  # which loads what trains

        changes = {"precision": precision, "threads": threads}
        given = {name: value for name, value in changes.items() if value is not None}
        asked = Settings(scale, tuple(seeds), given, device, Path(out), progress, command)
        printed = catalogue.to_train(train, paper, table)
        return train_printed(
            train, printed, asked, data, data_root, download, None if backbone is None else Path(backbone)
        )
    trains = {
        "--scale": scale != 1.0, "--data": data is not None, "--data-root": data_root is not None, "--download": download,
        "--backbone": backbone is not None, "--seed and --seeds": tuple(seeds) != (0,), "--precision": precision is not None,
        "--threads": threads is not None,
    }  # fmt: skip
    if any(trains.values()):
        names = ", ".join(flag for flag, given in trains.items() if given)
        raise SettingError(f"for --train ROW (train=ROW) alone: {names}; without it nothing is trained")
    return Counted(catalogue.rows(paper, table), paper, command)
