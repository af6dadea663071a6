"""How quick leanconv itself is, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from leanconv.report.tables import NONE, Row, markdown_text

NOTE = "Seconds of each step and, in brackets, its budget. A chain of N is a network of N convolutions, one after the other."


def markdown(rows: Sequence[Row]) -> str:
    """The seconds of each step beside its budget: one line for each step, one column for each network.

    Args:
        rows: of a results file of kind "tool".
    """
    found = {(row["step"], row["network"]): row for row in rows}
    networks = list(dict.fromkeys(row["network"] for row in rows))
    body = [
        [step, *(_cell(found.get((step, name))) for name in networks)]
        for step in dict.fromkeys(row["step"] for row in rows)
    ]
    return markdown_text(("Step", *(name or "no network" for name in networks)), body, NOTE)


def _cell(row: Row | None) -> str:
    if row is None:
        return NONE
    budget = "" if row["budget_seconds"] is None else f" ({row['budget_seconds']:.3g})"
    return f"{row['step_seconds']:.2f}{budget}{' late' if row['late'] else ''}"
