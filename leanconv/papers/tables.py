"""Tables that show the figures printed in a paper beside the figures counted here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from leanconv.papers import catalogue
from leanconv.papers.contents import STATES, contents_table
from leanconv.papers.rows import Accuracy, PrintedCount
from leanconv.report.tables import NONE

HEADS = ("Table", "Row", "Figure", "Printed", "Ours", "Deviation", "MACs", "Verdict", "Network", "Evidence", "Why")
RIGHT = ("Printed", "Ours", "Deviation", "MACs")
TEXTS = tuple(head for head in HEADS if head not in RIGHT)
NOTE = (
    "equal: our figure, rounded to the printed digits, is the printed figure. truncated: our figure, cut off after the printed "
    "digits, is the printed figure. close: within 5 %. (again): a second construction of a printed figure, which is shown and "
    "not counted. MACs: for a figure that compares two networks, the MACs of the network divided by the MACs of the other network."
)


def cells(row: PrintedCount) -> tuple[str, ...]:
    """The cells of one row, under the column heads `HEADS`."""
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
        f"{row.verdict()} (again)" if row.again else row.verdict(),
        NONE if figure is None else str(figure.of),
        row.evidence,
        row.reason,
    )


def summary(rows: Sequence[PrintedCount]) -> str:
    """The number of rows for each verdict: each printed figure once, and fitted rows apart."""
    once = [row for row in rows if not row.again]
    fitted = [row for row in once if row.evidence == "fitted"]
    cells = [row for row in once if row.figure is not None and row.figure.of_cells]
    quoted = [row for row in once if row.figure is None]
    counted = [row for row in once if row not in fitted and row not in cells and row not in quoted]
    parts = [
        f"{head}: {_verdicts(own)}."
        for head, own in (
            ("Counted on our networks", counted),
            ("Counted on networks that were fitted to printed figures", fitted),
            ("Divided from printed cells alone", cells),
        )
        if own
    ]
    if quoted:
        parts.append(f"Quoted: {len(quoted)}.")
    if len(once) < len(rows):
        parts.append(f"Second constructions, not counted: {len(rows) - len(once)}.")
    return " ".join([f"{len(once)} printed figures.", *parts])


def _verdicts(rows: Sequence[PrintedCount]) -> str:
    counts = Counter(row.verdict() for row in rows)
    return ", ".join(f"{counts[name]} {name}" for name in ("equal", "truncated", "close", "differs") if counts[name])


def markdown(rows: Sequence[PrintedCount]) -> str:
    """The table as Markdown, with one section for each table of the paper."""
    sections = []
    for table in dict.fromkeys(row.table for row in rows):
        lines = [HEADS[1:], ["---"] + ["--:" if head in RIGHT else "---" for head in HEADS[2:]]]
        lines += [cells(row)[1:] for row in rows if row.table == table]
        body = "\n".join("| " + " | ".join(_escaped(text) for text in line) + " |" for line in lines)
        sections.append(f"### {table}\n\n{body}\n")
    return "\n".join(sections)


def accuracy_markdown(accuracies: Sequence[Accuracy]) -> str:
    """The table of printed accuracies as Markdown, with the network and the recipe that can be trained for each."""
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
    """The Markdown page of one paper: remarks, every printed figure beside ours, and the printed accuracies.

    Args:
        paper: a key of `leanconv.papers.catalogue.PAPERS`.
    """
    rows, accuracies = catalogue.rows(paper), catalogue.accuracies(paper)
    return (
        f"# {catalogue.PAPERS[paper]}\n\n{summary(rows)}\n\n"
        f"<!-- written by `python -m tests.gates.update` from leanconv/papers/{paper}.py -->\n\n"
        f"<!-- run by: tests/cli/test_reproduce.py -->\n"
        f"```console\n$ leanconv reproduce {paper}                  # every printed figure beside ours\n"
        f"$ leanconv reproduce {paper} --train ROW      # train one of the printed accuracies\n```\n\n"
        f"{catalogue.about(paper)}\n\n"
        f"## Contents\n\n{_states()}\n\n{contents_table(paper)}\n"
        f"## Counted\n\n`leanconv reproduce {paper}` prints these rows. Our figures are counted on the networks that "
        f"`leanconv.create_model` builds. {NOTE}\n\n{markdown(rows)}\n"
        f"## Printed accuracies\n\nThe accuracies are in percent, as printed. `leanconv reproduce {paper} --train ROW` trains a "
        f"row that has a network and a recipe.\n\n{accuracy_markdown(accuracies)}"
    )


def _states() -> str:
    return " ".join(f"*{state}*: {meaning}." for state, meaning in STATES.items())


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
