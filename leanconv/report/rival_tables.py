"""Networks timed in one run with the accuracy that was published for them: a table, and a figure of MACs against time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from leanconv.report.figures import INK, colours_of, label_of, svg
from leanconv.report.latency_tables import best
from leanconv.report.tables import NONE, Row, macs, markdown_text, quartiles, ratio

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS = ("Batch", "Network", "Published top-1 %", "at px", "MACs", "MACs, ratio", "ms", "ms, ratio", "GMAC/s")
NOTE = (
    "Each row is the faster form of a network; all rows of a batch were timed in one interleaved run at one image size. ms: "
    "milliseconds a call, median and quartiles. Ratios compare with the first network. The accuracy was published for other "
    "training and sometimes for more pixels, so it ranks no two methods; rows without one were never trained."
)
LINES = 5  # lines of equal speed in the figure


def speed_of(row: Row) -> float:
    """Multiply-adds a second, in units of 10^9.

    >>> speed_of({"batch": 2, "macs": 10**9, "latency_ms": 20.0})
    100.0
    """
    return float(row["batch"] * row["macs"] / row["latency_ms"] / 1e6)


def markdown(rows: Sequence[Row]) -> str:
    """The table of the fastest form of each network, for each batch.

    Args:
        rows: of a results file of kind "rivals".
    """
    body = []
    for row in best(rows):
        first = next(other for other in rows if other["batch"] == row["batch"])
        known, pixels = row["published_top1_pct"], row["published_px"]
        body.append([
            str(row["batch"]), row["network"], NONE if known is None else f"{known:.1f}", str(pixels or NONE), macs(row["macs"]),
            ratio(row["macs"] / first["macs"]), quartiles(row, "latency_ms"), quartiles(row, "ratio"), f"{speed_of(row):.0f}",
        ])  # fmt: skip
    return markdown_text(HEADS, body, NOTE, left=2)


def figure(rows: Sequence[Row]) -> str | None:
    """A figure with one plot for each batch: MACs against the time of an image, and lines of equal MACs a second.

    A network below a line computes faster than the line says. Both axes are logarithmic.

    Args:
        rows: of a results file of kind "rivals".

    Returns:
        SVG; None if no network was timed.
    """
    timed = best(rows)
    if not timed:
        return None
    batches, names = (list(dict.fromkeys(row[key] for row in timed)) for key in ("batch", "network"))
    colour = colours_of(names)

    def draw(figure: Figure) -> None:
        for batch, axes in zip(batches, figure.subplots(1, len(batches), squeeze=False).flat, strict=True):
            own = [row for row in timed if row["batch"] == batch]
            ends = [factor * edge(row["macs"] / 1e9 for row in own) for factor, edge in ((0.8, min), (1.25, max))]
            speeds = [speed_of(row) for row in own]
            for step in range(LINES):
                speed = min(speeds) * (max(speeds) / min(speeds)) ** (step / (LINES - 1))
                times = [1e3 * end / speed for end in ends]
                axes.plot(ends, times, color=INK, alpha=0.3, linewidth=0.7)
                axes.annotate(
                    f"{speed:.0f} GMAC/s", (ends[1], times[1]), fontsize=6, color=INK, ha="right", va="bottom"
                )
            for number, name in enumerate(names):
                for row in (row for row in own if row["network"] == name):
                    axes.plot(
                        row["macs"] / 1e9, row["latency_ms"] / batch, marker="osD^v"[number // 7 % 5], linestyle="",
                        color=colour[name], label=label_of(name) if batch == batches[0] else None,
                    )  # fmt: skip
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter("{x:g}")
                axis.set_tick_params(which="both", labelsize=7)
            axes.set_title(f"batch {batch}", fontsize=10)
            axes.set_xlabel("MACs for one image, 10⁹")
        figure.supylabel("ms for one image", fontsize=10)
        figure.legend(loc="outside lower center", ncols=3, fontsize=7, labelcolor=INK)

    return svg(draw, "Time of an image against its MACs", (4.0 * len(batches) + 1, 5.4))
