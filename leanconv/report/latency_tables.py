"""The table of networks timed in several runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leanconv.report.tables import NONE, Row, integer, macs, markdown_text, quartiles, ratio
from leanconv.report.text_table import TextTable
from leanconv.timing.busy import BUSY
from leanconv.timing.latency import apart

HEADS = ("Batch", "Network", "Runtime", "Form", "Parameters", "MACs", "MACs, ratio", "ms", "ms, ratio")
LEFT = 4
LATENCY_IN = "latency_ms in "  # followed by the runtime: one measure for each
NOTE = (
    "ms: milliseconds a call, median and quartiles over interleaved rounds. Ratios compare with the first network of the same "
    "batch; ratios of time compare with the fastest entry of that network, and are left out if it failed. MACs are for one "
    "image; 1 MAC = one multiply-add."
)

GROUP_HEADS = ("Groups", "Filters", "Form", "MACs", "ms", "to one group")
GROUP_NOTE = (
    "The MACs stay equal: twice the groups have twice the filters. A ratio compares with the ordinary convolution."
)


def texts(rows: Sequence[Row]) -> list[list[str]]:
    """The cells of the table, under the column heads `HEADS`.

    Args:
        rows: of `leanconv bench`.
    """
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
            *(["failed", row["failed"]] if row["failed"] else _times(row, rows)),
        ]
        for row in rows
    ]


def _times(row: Row, rows: Sequence[Row]) -> list[str]:
    """The time, and its ratio to the first network of the same batch if that one was timed."""
    return [quartiles(row, "latency_ms"), quartiles(row, "ratio") if _reference(rows, row["batch"]) else NONE]


def _reference(rows: Sequence[Row], batch: int) -> Row | None:
    """The fastest row of the first network of a batch; None if that network failed."""
    own = [row for row in rows if row["batch"] == batch]
    return next((row for row in best(own) if row["network"] == own[0]["network"]), None)


def best(rows: Sequence[Row]) -> list[Row]:
    """The fastest row of each network, for each batch."""
    return [row for row in rows if row["best"]]


def sentences(rows: Sequence[Row]) -> list[str]:
    """What the measurement found: the fastest entry of each network beside that of the first network of the same batch.

    As in a comparison, one is faster or slower if the 95 % interval of the median ratio lies on one side of 1.
    """
    found = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        first = _reference(rows, batch)
        if first is None:
            continue
        for row in best(rows):
            if row["batch"] == batch and row is not first:
                found.append(
                    f"Batch {batch}: {row['network']} {_compared(row, first['network'])}, each in its fastest form "
                    f"({row['runtime']}, {row['form']}; {first['runtime']}, {first['form']})."
                )
    return found


def _compared(row: Row, reference: str) -> str:
    """Whether a row is faster or slower than `reference`, with the ratio of their times; or why this is not known."""
    low, high, what = row.get("ratio_low"), row.get("ratio_high"), "95 % interval"
    if "ratio_low" not in row:  # an older file, without intervals
        low, high, what = row["ratio_q25"], row["ratio_q75"], "quartiles"
    if low is None or high is None:
        return f"takes {row['ratio']:.2f} of the time of {reference} in {row['rounds']} rounds, too few to tell"
    spread, verdict, busy = (
        f"{row['ratio']:.2f} of its time ({what} {low:.2f}-{high:.2f})",
        apart(low, high),
        row.get("busy"),
    )
    if verdict is None:
        return f"is not clearly faster or slower than {reference}: {spread}"
    if busy is not None and busy > BUSY:
        others = f"other programs used {busy:.0%} of the CPUs"
        return (
            f"may be {verdict} than {reference}: {spread}, but {others} during the measurement, so this is not reliable"
        )
    return f"is {verdict} than {reference}: {spread}"


def across_runtimes(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for the HTML page. The fastest row of a network and batch also gets the network's best time in each runtime."""
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
    """The table of all rows; the fastest row of each network is bold."""
    return TextTable(HEADS, texts(rows), LEFT, NOTE, title, ["bold" if row["best"] else None for row in rows])


def markdown(rows: Sequence[Row]) -> str:
    """The table of all rows as Markdown."""
    return table(rows).markdown()


def markdown_of_best(rows: Sequence[Row]) -> str:
    """The table of the fastest row of each network, as Markdown."""
    return markdown(best(rows))


def texts_of_groups(rows: Sequence[Row]) -> list[list[str]]:
    """The cells of `GROUP_HEADS` for the rows of `leanconv bench --figure groups`."""
    return [
        [
            str(row["groups"]), integer(row["filters"]), row["form"], macs(row["macs"]), f"{row['median_ms']:.2f}",
            ratio(row["ratio"]),
        ]
        for row in rows
    ]  # fmt: skip


def markdown_of_groups(rows: Sequence[Row]) -> str:
    """The time against the number of groups at equal MACs: one line for each number and form."""
    return markdown_text(GROUP_HEADS, texts_of_groups(rows), GROUP_NOTE, left=("Form",))


def markdown_of_chunks(rows: Sequence[Row]) -> str:
    """The time of a batch as one call and as several calls: one line for each network, one column for each part."""
    parts = list(dict.fromkeys(row["images_a_call"] for row in rows))
    body = []
    for network in dict.fromkeys(row["network"] for row in rows):
        own = {row["images_a_call"]: row for row in rows if row["network"] == network}
        cells = [f"{quartiles(own[part], 'latency_ms')}, {own[part]['ratio']:.2f}" for part in parts]
        body.append([network, macs(own[parts[0]]["macs"]), *cells])
    heads = ("Network", "MACs", *(f"{part} a call" for part in parts))
    note = (
        f"ms for {rows[0]['batch']} images, median and quartiles over interleaved rounds, and the ratio to the first network in "
        "the first column."
    )
    return markdown_text(heads, body, note)
