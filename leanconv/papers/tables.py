"""Printed figures beside ours, as a table for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from leanconv.papers import catalogue
from leanconv.papers.rows import Accuracy, Row
from leanconv.report.tables import NONE

HEADS = ("Table", "Row", "Figure", "Printed", "Ours", "Deviation", "MACs", "Verdict", "Network", "Evidence", "Why")
RIGHT = ("Printed", "Ours", "Deviation", "MACs")
TEXTS = tuple(head for head in HEADS if head not in RIGHT)
NOTE = (
    "exact: equal to half of the last printed digit, or when cut off there; close: within 5 %. "
    "MACs: where networks are compared, how many times the other one's."
)


def cells(row: Row) -> tuple[str, ...]:
    """The texts of one row under `HEADS`."""
    ours, deviation, figure, compute = row.ours(), row.deviation_pct(), row.figure, row.macs_ratio()
    decimals = len(row.printed.partition(".")[2]) + 2
    return (
        row.table,
        row.row,
        row.metric,
        f"{row.printed} {row.unit}".strip(),
        NONE if ours is None else f"{ours:,.{decimals}f}",
        NONE if deviation is None else f"{deviation:+.2f} %",
        NONE if compute is None else f"{compute:.2f} x",
        row.verdict(),
        NONE if figure is None else str(figure.of),
        row.evidence,
        row.reason,
    )


def summary(rows: Sequence[Row]) -> str:
    """How many of each verdict."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.verdict()] = counts.get(row.verdict(), 0) + 1
    parts = ", ".join(f"{counts[name]} {name}" for name in ("exact", "close", "differs", "quoted") if name in counts)
    return f"{len(rows)} printed figures: {parts}."


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown, one section a table of the paper."""
    sections = []
    for table in dict.fromkeys(row.table for row in rows):
        lines = [HEADS[1:], ["---"] + ["--:" if head in RIGHT else "---" for head in HEADS[2:]]]
        lines += [cells(row)[1:] for row in rows if row.table == table]
        body = "\n".join("| " + " | ".join(_escaped(text) for text in line) + " |" for line in lines)
        sections.append(f"### {table}\n\n{body}\n")
    return "\n".join(sections)


def accuracy_markdown(accuracies: Sequence[Accuracy]) -> str:
    """The printed accuracies, and what trains towards them."""
    heads = ("Table", "Row", "Data", "Metric", "Printed", "Network", "Recipe", "Remark")
    lines = [heads, ("---", "---", "---", "---", "--:", "---", "---", "---")]
    lines += [
        (
            row.table,
            row.row,
            row.dataset,
            row.metric,
            row.printed,
            f"{row.detector} on {row.network}" if row.detector else str(row.network or NONE),
            row.recipe or NONE,
            row.reason,
        )
        for row in accuracies
    ]
    return "\n".join("| " + " | ".join(_escaped(text) for text in line) + " |" for line in lines) + "\n"


def page(paper: str) -> str:
    """One paper as a document: what to know, every printed figure beside ours, and the printed accuracies."""
    rows, accuracies = catalogue.rows(paper), catalogue.accuracies(paper)
    return (
        f"# {catalogue.PAPERS[paper]}\n\n"
        f"<!-- written by `python -m tests.gates.update` from leanconv/papers/{paper}.py -->\n\n"
        f"{catalogue.about(paper)}\n\n"
        f"## Counted\n\n{summary(rows)} `leanconv reproduce {paper}` prints them; ours is counted on the network that "
        f"`leanconv.create_model` builds. {NOTE}\n\n{markdown(rows)}\n"
        f"## Printed accuracies\n\nAs printed, in percent. `leanconv reproduce {paper} --train ROW` trains a row that has a "
        f"network and a recipe.\n\n{accuracy_markdown(accuracies)}"
    )


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
