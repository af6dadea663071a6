"""What a library call found: printed as a table, shown as one in a notebook, and written as JSON, a DataFrame or a page."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanconv.core.atomic import write_text
from leanconv.core.errors import SettingError
from leanconv.core.shown import plain
from leanconv.report.tables import Row
from leanconv.report.text_table import TextTable

if TYPE_CHECKING:
    import pandas

    from leanconv.report.page import Page


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
        path = Path(path).expanduser()
        write_text(path, self.page().html())
        return path

    def __str__(self) -> str:
        return "\n\n".join([*map(str, self.tables()), *(["\n".join(self.sentences())] if self.sentences() else [])])

    def _repr_html_(self) -> str:
        from markupsafe import escape

        said = "".join(f"<p>{escape(plain(sentence))}</p>" for sentence in self.sentences())
        return "".join(table._repr_html_() for table in self.tables()) + said
