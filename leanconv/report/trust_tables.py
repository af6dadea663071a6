"""Tables of three checks: every network of timm and torchvision, deliberate faults (mutants), and a stranger's walk."""

from __future__ import annotations

from collections.abc import Sequence

from leanconv.report.tables import NONE, Row, duration, markdown_text


def markdown_of_sweep(rows: Sequence[Row]) -> str:
    """The number of networks that passed, for each part of the sweep."""
    body = [
        [row["part"], *(f"{row[name]:,}" for name in ("networks", "ok", "nothing to convert", "others"))]
        for row in rows
        if "took_seconds" in row
    ]
    note = (
        "Nothing to convert: the method takes no convolution of the network, and the file gives the reason for each; the network "
        "was still counted. Others: the network was refused, and the file gives the reason."
    )
    return markdown_text(("Part", "Networks", "Went through", "Nothing to convert", "Others"), body, note)


def markdown_of_mutants(rows: Sequence[Row]) -> str:
    """The number of faults that the tests detected, by area."""
    body = []
    for area in dict.fromkeys(row["area"] for row in rows):
        outcomes = [row["outcome"] for row in rows if row["area"] == area]
        body.append([area, f"{len(outcomes)}", f"{sum(outcome != 'survived' for outcome in outcomes)}"])
    total = sum(row["outcome"] != "survived" for row in rows)
    body.append(["all", f"{len(rows)}", f"{total}"])
    note = "A mutant is one changed line that computes something else. Seen: a test fails, or does not end."
    return markdown_text(("Area", "Mutants", "Seen by the tests"), body, note)


def markdown_of_walk(rows: Sequence[Row]) -> str:
    """The seconds of each step of a stranger's walk through the documents.

    Args:
        rows: of a results file of kind "walk".
    """
    body = [[row["page"] or NONE, row["step"], f"{row['seconds']:.1f}"] for row in rows]
    total = sum(row["seconds"] for row in rows)
    note = f"{duration(total)} in all, at the small sizes of the tests; each command is a process of its own."
    return markdown_text(("Page", "Step", "Seconds"), body, note, left=("Page", "Step"))
