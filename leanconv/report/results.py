"""The table of a results file, by its kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from leanconv.core.errors import FileError, SettingError
from leanconv.report import latency_tables, layer_tables, tables
from leanconv.report.tables import Row

TABLES: dict[str, dict[str, Callable[[Sequence[Row]], str]]] = {
    "compare": {"main": tables.markdown},
    "latency": {"main": latency_tables.markdown, "best": latency_tables.markdown_of_best},
    "layers": {"main": layer_tables.markdown, "shapes": layer_tables.markdown_of_shapes},
    "steps": {"main": layer_tables.markdown_of_steps},
}


def markdown_of(path: str | Path, table: str = "main") -> str:
    """A table of a results file, as Markdown; the documents' blocks are checked against it.

    Raises:
        FileError: not a results file.
        SettingError: it has no such table.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows, kind = found["rows"], found.get("kind", "compare")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path.name} is not a results file ({error}); `leanconv compare` writes one") from error
    known = TABLES.get(kind, {})
    if table not in known:
        raise SettingError(f"{path.name} has no table {table!r}; it has {', '.join(known) or 'none'}")
    try:
        return known[table](rows)
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path.name}: its rows lack {error}; `leanconv {kind}` writes them whole") from error
