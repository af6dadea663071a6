"""The table of a search for a lean network, as Markdown, and its figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from leanconv.report.figures import INK, colours_of, label_of, legend, svg
from leanconv.report.tables import NONE, Row, duration, integer, macs, markdown_text, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS = (
    "Network", "Parameters", "Parameters, ratio", "MACs", "MACs, ratio", "ms", "ms, ratio", "before training", "Validation %",
    "Test %",
)  # fmt: skip


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


def markdown_of_seeds(rows: Sequence[Row]) -> str:
    """Searches from several dense networks: means, and the points that each network lost against its own dense network.

    Args:
        rows: of a results file of kind "lean_seeds".
    """
    body = [
        [
            row["network"],
            *(f"{row[key]:.2f}" for key in ("params_ratio", "macs_ratio", "latency_ratio")),
            spread(row["test_top1_pct"], row["test_top1_pct_std"]),
            *(
                NONE if row["network"] == "dense" else spread(row[key], row[f"{key}_std"])
                for key in ("test_top1_lost", "validation_lost")
            ),
            str(row["n"]),
        ]
        for row in rows
    ]
    note = (
        "Means over n dense networks, trained from different seeds, ± the standard deviation. Lost: points of accuracy, compared "
        "with the dense network of the same seed. Parameters, MACs and time are parts of dense's; time is that of a call of "
        f"{rows[0]['batch']} image(s) in {rows[0]['runtime']}, {rows[0]['threads']} thread(s), interleaved, median. The "
        "test part was read once for each network."
    )
    heads = ("Network", "Parameters", "MACs", "Time", "Test %", "Lost, test", "Lost, validation", "n")
    return markdown_text(heads, body, note)


def markdown_of_search(rows: Sequence[Row]) -> str:
    """What a search cost: the time of each stage, in a column for each network that the search started from.

    Args:
        rows: of a results file of kind "search"; the last one is the sum.
    """
    *steps, total = rows
    found = {(row["stage"], row["start"]): row for row in steps}
    starts = list(dict.fromkeys(row["start"] for row in steps))
    body = [
        [stage, *(duration(row["seconds"]) if (row := found.get((stage, start))) else NONE for start in starts)]
        for stage in dict.fromkeys(row["stage"] for row in steps)
    ]
    note = (
        f"{duration(total['seconds'])} in all, {duration(total['cpu_seconds'])} of all threads together; at most "
        f"{total['peak_mib'] / 1024:.1f} GiB of memory. Start 1 is the dense network, each other one has fewer channels. The "
        "last column includes the stages after the choice of a start."
    )
    return markdown_text(("Stage", *(f"start {start}" for start in starts)), body, note)


def seeds_figure(rows: Sequence[Row]) -> str:
    """The mean test accuracy of each network against its time, with the standard deviation over the seeds, as SVG.

    Args:
        rows: of a results file of kind "lean_seeds".
    """
    return accuracy_figure([{**row, "ratio": row["latency_ratio"]} for row in rows])


def accuracy_figure(rows: Sequence[Row], quality: str | None = None) -> str:
    """The accuracy of each network against its measured time, as SVG.

    Args:
        rows: the dense network, the lean network and the controls; a row of several runs has "n", and its standard deviation.
        quality: what `quality` of a row is, for the label; None shows the accuracy on the test part.
    """
    key, label = ("test_top1_pct", "Test accuracy, %") if quality is None else ("quality", quality)
    colours = colours_of([row["network"] for row in rows])

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row in rows:
            name = row["network"]
            marker = {"dense": "D", "lean": "*"}.get(name, "o")
            runs = f" (n = {row['n']})" if "n" in row else ""
            axes.errorbar(
                row["ratio"], row[key], row.get(f"{key}_std"), marker=marker, markersize=11 if name == "lean" else 6,
                linestyle="", capsize=3, color=colours[name], label=f"{label_of(name)}{runs}",
            )  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_xlabel("Measured time, of dense")
        axes.set_ylabel(label)
        axes.margins(y=0.2)
        axes.grid(alpha=0.25, color=INK, linewidth=0.5)
        legend(figure, len(rows))

    return svg(draw, f"{label} against measured time")
