"""The tables and figures of a results file. Its kind decides which ones there are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from leanconv.core.errors import FileError, SettingError
from leanconv.core.reading import parse_json
from leanconv.report import (
    analysis_tables,
    channel_tables,
    detection,
    file_tables,
    fit_tables,
    growth,
    latency_tables,
    layer_tables,
    lean_tables,
    memory_tables,
    rival_tables,
    scale_tables,
    tables,
    tool_tables,
    training_tables,
    trust_tables,
)
from leanconv.report.tables import Row

TABLES: dict[str, dict[str, Callable[[Sequence[Row]], str]]] = {
    "compare": {"main": tables.markdown},
    "latency": {"main": latency_tables.markdown, "best": latency_tables.markdown_of_best},
    "group_times": {"main": latency_tables.markdown_of_groups},
    "chunks": {"main": latency_tables.markdown_of_chunks},
    "layers": {"main": layer_tables.markdown, "shapes": layer_tables.markdown_of_shapes},
    "fits": {
        "main": fit_tables.markdown,
        "norms": fit_tables.markdown_of_norms,
        "folded": fit_tables.markdown_of_folded,
    },
    "growth": {"main": growth.markdown},
    "lean": {"main": lean_tables.markdown},
    "lean_seeds": {"main": lean_tables.markdown_of_seeds},
    "search": {"main": lean_tables.markdown_of_search},
    "prediction": {"main": layer_tables.markdown_of_predictions},
    "profile": {"main": layer_tables.markdown_of_profile},
    "steps": {"main": layer_tables.markdown_of_steps},
    "sizes": {"main": file_tables.markdown_of_sizes, "reloads": file_tables.markdown_of_reloads},
    "int8": {"main": file_tables.markdown_of_int8, "networks": file_tables.markdown_of_int8_networks},
    "detection": {"main": detection.markdown, "occlusion": detection.markdown_of_slices},
    "detection_steps": {"main": detection.markdown_of_steps},
    "channels": {
        "orders": channel_tables.markdown_of_orders,
        "fits": channel_tables.markdown_of_fits,
        "pruning": channel_tables.markdown_of_pruning,
    },
    "memory": {"main": memory_tables.markdown, "layers": memory_tables.markdown_of_layers},
    "rivals": {"main": rival_tables.markdown},
    "data_index": {"main": scale_tables.markdown_of_opening},
    "scale": {"main": scale_tables.markdown_of_long},
    "imagenet": {
        "input": scale_tables.markdown_of_input,
        "steps": scale_tables.markdown_of_steps,
        "needs": scale_tables.markdown_of_needs,
    },
    "tool": {"main": tool_tables.markdown},
    "training": {"main": training_tables.markdown},
    "sweep": {"main": trust_tables.markdown_of_sweep},
    "walk": {"main": trust_tables.markdown_of_walk},
    "mutation": {"main": trust_tables.markdown_of_mutants},
    "analysis": {
        name: getattr(analysis_tables, name)
        for name in ("filters", "bases", "pruning", "gradients", "ranks", "maps", "spectrum")
    },
}


FIGURES: dict[str, dict[str, Callable[[Sequence[Row]], str | None]]] = {
    "rivals": {"speed": rival_tables.figure},
    "lean": {"accuracy": lean_tables.accuracy_figure},
    "lean_seeds": {"accuracy": lean_tables.seeds_figure},
    "growth": {
        "time": lambda rows: growth.figure(rows, "latency_ms"),
        "memory": lambda rows: growth.figure(rows, "peak_bytes"),
    },
    "detection": {
        f"{kind}-{metric}": partial(detection.occlusion_figure, kind=kind, metric=metric)
        for kind in detection.KINDS
        for metric in ("AP", "AP75")
    },
}
INK = "#777777"  # text colour of a figure in a document, readable on light and dark pages


def markdown_of(path: str | Path, table: str = "main") -> str:
    """A table of a results file, as Markdown. A test compares the tables in README.md and docs/ with it.

    Args:
        path: a JSON file of `results/`, or a ``summary.json``.
        table: "main", or another table of this kind of file.

    Raises:
        FileError: `path` is not a results file.
        SettingError: the file has no such table.
    """
    path = Path(path).expanduser()
    rows, kind = _rows(path)
    known = TABLES.get(kind, {})
    if table not in known:
        raise SettingError(f"{path.name} has no table {table!r}; it has {', '.join(known) or 'none'}")
    try:
        return known[table](rows)
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path.name}: its rows lack {error}; `leanconv {kind}` writes complete rows") from error


def figures_of(path: str | Path) -> dict[str, str]:
    """The figures of a results file for a document: name -> SVG. The last line of each SVG is `source_mark`.

    Raises:
        FileError: `path` is not a results file.
    """
    path = Path(path).expanduser()
    rows, kind = _rows(path)
    mark = f"<!-- {source_mark(path)} -->"
    drawn = {name: draw(rows) for name, draw in FIGURES.get(kind, {}).items()}
    return {name: f"{svg.replace('currentColor', INK)}\n{mark}\n" for name, svg in drawn.items() if svg}


def source_mark(path: Path) -> str:
    """The name and a checksum of the file. A test compares it with the mark in a figure, to find outdated figures."""
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def _rows(path: Path) -> tuple[Sequence[Row], str]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        return found["rows"], found.get("kind", "compare")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path.name} is not a results file ({error}); `leanconv compare` writes one") from error
