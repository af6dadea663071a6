"""Figures and a table of how time and memory grow with a network's depth, width, batch and image size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from leanconv.core.errors import SettingError
from leanconv.report.figures import INK, colours_of, label_of, svg
from leanconv.report.tables import Row, markdown_text, quartiles, ratio, size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = {"latency_ms": ("Time, ms", 1.0), "peak_bytes": ("Peak memory of a call, MB", 1e6)}
NOTE = "ms: milliseconds a call, median and quartiles over interleaved rounds. Ratios compare with dense at the same setting."


def figure(rows: Sequence[Row], measure: str = "latency_ms") -> str:
    """A figure with one plot for each setting that varies, and one line for each method. Both axes are logarithmic.

    Args:
        rows: of a results file of kind "growth".
        measure: "latency_ms" or "peak_bytes".

    Returns:
        SVG.

    Raises:
        SettingError: `measure` has another value.
    """
    if measure not in MEASURES:
        raise SettingError(f"measure={measure!r} must be one of {', '.join(MEASURES)}")
    label, unit = MEASURES[measure]
    axes_names = list(dict.fromkeys(row["axis"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    colour = colours_of(methods)

    def draw(figure: Figure) -> None:
        columns = min(2, len(axes_names))
        for number, (name, axes) in enumerate(
            zip(axes_names, figure.subplots(-(-len(axes_names) // columns), columns, squeeze=False).flat, strict=False)
        ):
            for method in methods:
                own = [row for row in rows if (row["axis"], row["method"]) == (name, method) and row.get(measure)]
                axes.plot(
                    [row["value"] for row in own], [row[measure] / unit for row in own], marker="o", markersize=3,
                    linewidth=1.2, color=colour[method], label=label_of(method) if number == 0 else None,
                    linestyle="--" if method == "dense" else "-", zorder=3 if method == "dense" else 2,
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
            values = sorted({row["value"] for row in rows if row["axis"] == name})
            axes.set_xticks(values, [str(value) for value in values])
            axes.set_xlabel(name)
            axes.grid(alpha=0.25, color=INK, linewidth=0.5)
        figure.supylabel(label, fontsize=10)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8, labelcolor=INK)

    return svg(draw, f"{label} against {', '.join(axes_names)}", (7.0, 5.4))


def markdown(rows: Sequence[Row]) -> str:
    """The table of every point: MACs, time and memory, and their ratios to dense."""
    heads = ("Setting", "Method", "MACs", "ms", "ratio", "Peak memory", "ratio")
    body = []
    for row in rows:
        dense = next(
            other for other in rows if (other["axis"], other["value"]) == (row["axis"], row["value"])
        )  # the first row of a setting is dense
        memory = row["peak_bytes"] / dense["peak_bytes"] if row["peak_bytes"] and dense["peak_bytes"] else None
        body.append([
            f"{row['axis']} {row['value']}", row["method"], ratio(row["macs"] / dense["macs"]),
            quartiles(row, "latency_ms"), quartiles(row, "ratio"), size(row["peak_bytes"]), ratio(memory),
        ])  # fmt: skip
    return markdown_text(heads, body, NOTE, left=2)
