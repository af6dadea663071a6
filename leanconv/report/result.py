"""What a library call found: printed as a table, shown as one in a notebook, and written as JSON, a DataFrame or a page."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanconv.core.atomic import write_text
from leanconv.core.errors import SettingError
from leanconv.core.shown import plain
from leanconv.report.tables import Row, left_columns, markdown_text, rich_of

if TYPE_CHECKING:
    import pandas
    from rich.table import Table

    from leanconv.report.page import Page


@dataclass(frozen=True)
class TextTable:
    """Headings and cells as text; `print` it, show it in a notebook, or give it to rich.

    Args:
        left: the columns aligned to the left: the number of first columns, or their headings.
        note: a line below the table; title: a line above it.
        styles: rich's style of each row, such as "bold"; () for none.

    >>> print(TextTable(("Network", "ms"), [["resnet20", "1.25"]], note="Medians."))
    Network     ms
    resnet20  1.25
    Medians.
    """

    heads: Sequence[str]
    cells: Sequence[Sequence[str]]
    left: int | Collection[str] = 1
    note: str = ""
    title: str = ""
    styles: Sequence[str | None] = ()

    def markdown(self) -> str:
        """The table as Markdown, with its note below."""
        return markdown_text(self.heads, self.cells, self.note, self.left)

    def __rich__(self) -> Table:
        return rich_of(self.heads, self.cells, self.note, self.title, self.left, self.styles)

    def __str__(self) -> str:
        lines = [[plain(text) for text in line] for line in (self.heads, *self.cells)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        left = left_columns(self.heads, self.left)
        rows = [
            "  ".join(
                cell.ljust(width) if index in left else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        return "\n".join(line.rstrip() for line in (self.title, *rows, self.note) if line)

    def _repr_html_(self) -> str:
        from markupsafe import escape

        left = left_columns(self.heads, self.left)

        def line(texts: Sequence[str], tag: str) -> str:
            sides = ("left" if index in left else "right" for index in range(len(texts)))
            cells = zip(texts, sides, strict=True)
            return "".join(f'<{tag} style="text-align: {side}">{escape(plain(text))}</{tag}>' for text, side in cells)

        body = "".join(f"<tr>{line(texts, 'td')}</tr>" for texts in self.cells)
        caption = f"<caption>{escape(plain(self.title))}</caption>" if self.title else ""
        note = f"<p>{escape(plain(self.note))}</p>" if self.note else ""
        return f"<table>{caption}<thead><tr>{line(self.heads, 'th')}</tr></thead><tbody>{body}</tbody></table>{note}"


class Result(ABC):
    """What a library call found: its rows, and every way to look at them.

    A subclass gives `rows`, `table` and `page`; `tables`, `sentences` and `to_json` where there is more to say than the rows.
    """

    @property
    @abstractmethod
    def rows(self) -> Sequence[Row]:
        """The figures: one dict of plain values a row."""

    @abstractmethod
    def table(self) -> TextTable:
        """The rows as a table to read."""

    @abstractmethod
    def page(self) -> Page:
        """The rows as an HTML page."""

    def tables(self) -> Sequence[TextTable]:
        """All tables that a reader is shown: the one of the rows, and what belongs to it."""
        return (self.table(),)

    def sentences(self) -> Sequence[str]:
        """What the rows say, in words."""
        return ()

    def to_json(self) -> Any:
        """Plain values for `json.dumps`."""
        return list(self.rows)

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a DataFrame.

        Raises:
            SettingError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise SettingError("to_pandas() needs pandas: pip install 'leanconv[pandas]'") from None
        return pandas.DataFrame(list(self.rows))

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to `path`, whole or not at all; returns the path."""
        write_text(Path(path), self.page().html())
        return Path(path)

    def __str__(self) -> str:
        return "\n\n".join([*map(str, self.tables()), *(["\n".join(self.sentences())] if self.sentences() else [])])

    def _repr_html_(self) -> str:
        from markupsafe import escape

        said = "".join(f"<p>{escape(plain(sentence))}</p>" for sentence in self.sentences())
        return "".join(table._repr_html_() for table in self.tables()) + said
