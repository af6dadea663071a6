"""The table of a search for a lean network, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from leanconv.report.tables import NONE, Row, integer, macs, markdown_text

HEADS = ("Network", "Parameters", "ratio", "MACs", "ratio", "ms", "ratio", "before training", "Validation %", "Test %")


def markdown(rows: Sequence[Row]) -> str:
    """The dense network, the lean network and the controls: counts, measured time, and accuracy."""
    dense = rows[0]
    body = [
        [
            row["network"],
            integer(row["params"]), f"{row['params'] / dense['params']:.2f}",
            macs(row["macs"]), f"{row['macs'] / dense['macs']:.2f}",
            f"{row['latency_ms']:.3g}", f"{row['ratio']:.2f}",
            *(NONE if row[key] is None else f"{row[key]:.2f}" for key in ("one_shot", "quality", "test_top1_pct")),
        ]
        for row in rows
    ]  # fmt: skip
    note = (
        f"ms: a call of {dense['batch']} image(s) in {dense['runtime']}, {dense['threads']} thread(s), interleaved, median; "
        "ratios compare with dense. Before training: validation accuracy after the conversion. The test part was read once "
        "for each network. One run of each (n = 1)."
    )
    return markdown_text(HEADS, body, note)
