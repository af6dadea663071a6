"""The table of a comparison, with the same words for the terminal, for Markdown and for the HTML page."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from leanconv.core import shown
from leanconv.core.shown import plain

Row = dict[str, Any]
NONE = "–"
UNITS = {"G": 1e9, "M": 1e6, "k": 1e3, "min": 60.0, "h": 3600.0}  # by which cells are sorted


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        head: the column head.
        cell: gives the text of a row.
        note: explains the head, in the note below the table.
        alone: the head where it must be clear by itself, on the HTML page; "" for the same head.
        key: the key of the row's value by which the HTML page sorts.
    """

    head: str
    cell: Callable[[Row], str]
    note: str = ""
    key: str = ""
    alone: str = ""


def columns(rows: Sequence[Row]) -> list[Column]:
    """The columns of a comparison. Validation accuracy and latency are left out if no row has them.

    Args:
        rows: of ``summary.json`` from `leanconv compare`.
    """
    shown = [
        Column("Method", lambda row: row["method"], key="method"),
        Column(
            "Parameters", lambda row: integer(row["params"]), "Parameters: each shared tensor counts once.", "params"
        ),
        Column("ratio", lambda row: ratio(row["params_ratio"]), key="params_ratio", alone="Parameters, ratio"),
        Column("MACs", lambda row: macs(row["macs"]), "MACs are for one image; 1 MAC = one multiply-add.", "macs"),
        Column("ratio", lambda row: ratio(row["macs_ratio"]), key="macs_ratio", alone="MACs, ratio"),
        Column(
            "Weights",
            lambda row: size(row["weight_bytes"]),
            "Weights: parameters and buffers, 1 kB = 1000 bytes.",
            "weight_bytes",
        ),
        Column("Test top-1 %", accuracy_cell, "± is the standard deviation over n seeds.", "test_top1_pct"),
    ]
    if any(row.get("val_top1_pct") is not None for row in rows):
        shown.append(
            Column(
                "Validation top-1 %",
                lambda row: spread(row.get("val_top1_pct"), row.get("val_top1_pct_std")),
                key="val_top1_pct",
            )
        )
    shown += [
        Column("n", lambda row: str(row["n"]), key="n"),
        Column(
            "Training",
            lambda row: duration(row.get("train_seconds")),
            "Training: the mean wall time of one run.",
            "train_seconds",
        ),
    ]
    if any(row.get("latency_ms") is not None for row in rows):
        note = "Latency: median and quartiles over interleaved rounds."
        shown += [
            Column("Latency ms", lambda row: quartiles(row, "latency_ms"), note, "latency_ms"),
            Column("ratio", lambda row: quartiles(row, "latency_ratio"), key="latency_ratio", alone="Latency, ratio"),
        ]
    return shown


def notes(rows: Sequence[Row]) -> str:
    """The note below the table, which explains the column heads."""
    base = rows[0]["ratios_to"] if rows and rows[0].get("ratios_to") else None
    said = [column.note for column in columns(rows) if column.note]
    return " ".join([*said, f"Ratios compare with {base}."] if base else said)


def integer(value: int | None) -> str:
    """An integer as text, with thousands separators; a dash for None.

    >>> integer(272474), integer(None)
    ('272,474', '–')
    """
    return NONE if value is None else f"{value:,}"


def ratio(value: float | None) -> str:
    """A ratio as text, with two decimals; a dash for None.

    >>> ratio(0.256)
    '0.26'
    """
    return NONE if value is None else f"{value:.2f}"


def macs(value: int | None) -> str:
    """MACs as text with four digits and a decimal unit; a dash for None.

    >>> macs(40_813_184)
    '40.81 M'
    """
    if value is None:
        return NONE
    scale, unit = next((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")) if value >= s or s == 1)
    return f"{value / scale:.4g} {unit}".strip()


def size(value: int | None) -> str:
    """Bytes as text, in kB (1000 bytes) or MB; a dash for None.

    >>> size(286_900)
    '286.9 kB'
    """
    if value is None:
        return NONE
    return f"{value / 1e6:,.2f} MB" if value >= 1e6 else f"{value / 1e3:,.1f} kB"


def spread(mean: float | None, deviation: float | None) -> str:
    """A mean and its standard deviation as text; a dash for None.

    >>> spread(90.934, 0.18)
    '90.93 ± 0.18'
    """
    if mean is None:
        return NONE
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def duration(seconds: float | None) -> str:
    """Seconds as text, in s, min or h; a dash for None.

    >>> duration(2604)
    '43.4 min'
    """
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def quartiles(row: Row, name: str) -> str:
    """The median and the quartiles of the value `name` in a row, as text; a dash if the row has no such value.

    >>> quartiles({"ms": 1.9, "ms_q25": 1.86, "ms_q75": 1.96}, "ms")
    '1.90 (1.86-1.96)'
    """
    if row.get(name) is None:
        return NONE
    return f"{row[name]:.2f} ({row[f'{name}_q25']:.2f}-{row[f'{name}_q75']:.2f})"


def accuracy_cell(row: Row) -> str:
    """The test accuracy of a row with its spread, and the reason if a run failed.

    >>> accuracy_cell({"failed": "the loss is NaN"})
    'failed: the loss is NaN'
    """
    score = spread(row.get("test_top1_pct"), row.get("test_top1_pct_std"))
    if not row.get("failed"):
        return score
    return f"failed: {row['failed']}" if score == NONE else f"{score}; failed: {row['failed']}"


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The column heads and the cells of a comparison."""
    shown = columns(rows)
    return [column.head for column in shown], [[column.cell(row) for column in shown] for row in rows]


def rich_table(rows: Sequence[Row], title: str = "") -> Table:
    """The table of a comparison for a terminal."""
    heads, body = cells(rows)
    return rich_of(heads, body, notes(rows), title)


def markdown(rows: Sequence[Row]) -> str:
    """The table of a comparison as Markdown, with its note below."""
    heads, body = cells(rows)
    return markdown_text(heads, body, notes(rows))


def rich_of(
    heads: Sequence[str],
    body: Sequence[Sequence[str]],
    note: str,
    title: str = "",
    left: int | Collection[str] = 1,
    styles: Sequence[str | None] = (),
) -> Table:
    """A table for a terminal; `left` and `styles` as in `leanconv.report.text_table.TextTable`."""
    table = Table(
        title=Text(plain(title)) if title else None, caption=note, caption_justify="left", title_justify="left"
    )
    on_the_left = left_columns(heads, left)
    for index, head in enumerate(heads):
        table.add_column(Text(plain(head)), justify="left" if index in on_the_left else "right", overflow="fold")
    for index, texts in enumerate(body):
        # Text, because a message may contain characters that rich reads as markup
        table.add_row(*(Text(plain(text)) for text in texts), style=styles[index] if styles else None)
    return table


def markdown_text(
    heads: Sequence[str], body: Sequence[Sequence[str]], note: str, left: int | Collection[str] = 1
) -> str:
    """A Markdown table with `note` below; `left` as in `leanconv.report.text_table.TextTable`.

    >>> print(markdown_text(["Network", "MACs"], [["resnet20", "40.81 M"]], "MACs are for one image."))
    | Network | MACs |
    | --- | --: |
    | resnet20 | 40.81 M |
    <BLANKLINE>
    MACs are for one image.
    <BLANKLINE>
    """
    on_the_left = left_columns(heads, left)
    rule = ["---" if index in on_the_left else "--:" for index in range(len(heads))]
    lines = [heads, rule, *body]
    return "\n".join("| " + " | ".join(map(shown.markdown, line)) + " |" for line in lines) + f"\n\n{note}\n"


def left_columns(heads: Sequence[str], left: int | Collection[str]) -> set[int]:
    """The numbers of the columns aligned to the left; `left` is how many first columns, or their headings."""
    return {index for index, head in enumerate(heads) if (index < left if isinstance(left, int) else head in left)}


def leading_number(text: str) -> float | str | None:
    """The value by which a cell is sorted: the number at its start, times its unit; else the text; None for a dash.

    >>> leading_number("40.81 M"), leading_number("2.5 min"), leading_number("dense"), leading_number("–")
    (40810000.0, 150.0, 'dense', None)
    """
    match = re.match(r"[+-]?[\d,]*\.?\d+(e[+-]?\d+)?", text)
    if match is None or match[0] in ("", "."):
        return None if text == NONE else text
    unit = re.match(r"\s*(min|h|[GMk])(B|\b)", text[match.end() :])
    return float(match[0].replace(",", "")) * (UNITS[unit[1]] if unit else 1.0)
