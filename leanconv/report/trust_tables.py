"""What the library was tried with: every network of timm and torchvision, and faults put in on purpose, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from leanconv.report.tables import Row, markdown_text


def markdown_of_sweep(rows: Sequence[Row]) -> str:
    """How many networks went through, for each part of the sweep."""
    body = [
        [row["part"], *(f"{row[name]:,}" for name in ("networks", "ok", "nothing to convert", "others"))]
        for row in rows
        if "took_seconds" in row
    ]
    note = (
        "Nothing to convert: the network has no convolution that the method takes, with the reason for each; it was still "
        "counted. Others: refused, each with its reason in the file."
    )
    return markdown_text(("Part", "Networks", "Went through", "Nothing to convert", "Others"), body, note)


def markdown_of_mutants(rows: Sequence[Row]) -> str:
    """How many faults the tests saw, by area."""
    body = []
    for area in dict.fromkeys(row["area"] for row in rows):
        outcomes = [row["outcome"] for row in rows if row["area"] == area]
        body.append([area, f"{len(outcomes)}", f"{sum(outcome != 'survived' for outcome in outcomes)}"])
    total = sum(row["outcome"] != "survived" for row in rows)
    body.append(["all", f"{len(rows)}", f"{total}"])
    note = "Each mutant is one line changed so that it computes something else. Seen: a test fails, or does not end."
    return markdown_text(("Area", "Mutants", "Seen by the tests"), body, note)
