"""A table of texts: printed, shown in a notebook, given to rich or written as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leanconv.core.shown import plain
from leanconv.report.tables import left_columns, markdown_text, rich_of

if TYPE_CHECKING:
    from rich.table import Table


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
