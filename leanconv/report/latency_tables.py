"""Measured times of networks in several runtimes, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from leanconv.report.tables import Row, macs, markdown_text, quartiles, ratio, rich_of, whole

HEADS = ("Batch", "Network", "Runtime", "Form", "Parameters", "MACs", "ratio", "ms", "ratio")
LEFT = 4
NOTE = (
    "Milliseconds a call: median and quartiles over interleaved rounds. Ratios are to the first network of the same batch, those "
    "of time to its fastest entry. MACs for one image; 1 MAC = one multiply-add."
)


def texts(rows: Sequence[Row]) -> list[list[str]]:
    """The cells under `HEADS`."""
    first = {row["batch"]: row["macs"] for row in reversed(rows)}
    return [
        [
            str(row["batch"]),
            row["network"],
            row["runtime"],
            row["form"],
            whole(row["params"]),
            macs(row["macs"]),
            ratio(row["macs"] / first[row["batch"]] if row["macs"] and first[row["batch"]] else None),
            *(["failed", row["failed"]] if row["failed"] else [quartiles(row, "latency_ms"), quartiles(row, "ratio")]),
        ]
        for row in rows
    ]


def best(rows: Sequence[Row]) -> list[Row]:
    """The fastest entry of each network, for each batch."""
    return [row for row in rows if row["best"]]


def rich_table(rows: Sequence[Row], title: str) -> Table:
    """For a terminal; the fastest entry of each network is bold."""
    table = rich_of(HEADS, texts(rows), NOTE, title, LEFT)
    for row, drawn in zip(rows, table.rows, strict=True):
        drawn.style = "bold" if row["best"] else None
    return table


def markdown(rows: Sequence[Row]) -> str:
    """All rows as Markdown."""
    return markdown_text(HEADS, texts(rows), NOTE, LEFT)


def markdown_of_best(rows: Sequence[Row]) -> str:
    """The fastest entry of each network, as Markdown."""
    return markdown(best(rows))
