"""Measured times of networks in several runtimes, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leanconv.report.tables import Row, integer, macs, quartiles, ratio
from leanconv.report.text_table import TextTable

HEADS = ("Batch", "Network", "Runtime", "Form", "Parameters", "MACs", "ratio", "ms", "ratio")
LEFT = 4
LATENCY_IN = "latency_ms in "  # and the runtime: one measure each
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
            integer(row["params"]),
            macs(row["macs"]),
            ratio(row["macs"] / first[row["batch"]] if row["macs"] and first[row["batch"]] else None),
            *(["failed", row["failed"]] if row["failed"] else [quartiles(row, "latency_ms"), quartiles(row, "ratio")]),
        ]
        for row in rows
    ]


def best(rows: Sequence[Row]) -> list[Row]:
    """The fastest entry of each network, for each batch."""
    return [row for row in rows if row["best"]]


def across_runtimes(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows; the fastest one of each network and batch also has its network's best time in each runtime."""
    found = []
    for row in rows:
        one = dict(row)
        if row["best"]:
            own = [r for r in rows if (r["network"], r["batch"]) == (row["network"], row["batch"]) and r["latency_ms"]]
            for runtime in dict.fromkeys(r["runtime"] for r in own):
                one[f"{LATENCY_IN}{runtime}"] = min(r["latency_ms"] for r in own if r["runtime"] == runtime)
        found.append(one)
    return found


def table(rows: Sequence[Row], title: str = "") -> TextTable:
    """All rows; the fastest entry of each network is bold."""
    return TextTable(HEADS, texts(rows), LEFT, NOTE, title, ["bold" if row["best"] else None for row in rows])


def markdown(rows: Sequence[Row]) -> str:
    """All rows as Markdown."""
    return table(rows).markdown()


def markdown_of_best(rows: Sequence[Row]) -> str:
    """The fastest entry of each network, as Markdown."""
    return markdown(best(rows))
