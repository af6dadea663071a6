"""Figures as SVG text for an HTML page. They use the page's text colour, and need no other files."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from leanconv.core.errors import SettingError
from leanconv.core.shown import literal, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_POINTS = 2000  # of a line; a figure is about 500 pixels wide
INK = "#010203"  # a placeholder: `svg` replaces it by the page's text colour, so figures suit light and dark pages
AXES = {
    "params": ("Parameters, thousands", 1e3),
    "macs": ("MACs for one image, millions", 1e6),
    "latency_ms": ("Latency, ms", 1.0),
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
}


def accuracy_against(rows: Sequence[Mapping[str, Any]], x: str) -> str | None:
    """A figure of test accuracy with its spread over seeds, with one point for each row.

    Args:
        rows: of a comparison.
        x: "params", "macs" or "latency_ms".

    Returns:
        SVG; None if no row has both values.

    Raises:
        SettingError: `x` has another value.
    """
    if x not in AXES:
        raise SettingError(f"x={x!r} must be one of {', '.join(AXES)}")
    colours = colours_of([row["method"] for row in rows])
    points = [row for row in rows if row.get(x) is not None and row.get("test_top1_pct") is not None]
    if not points:
        return None
    label, unit = AXES[x]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row in points:
            method = row["method"]
            axes.errorbar(
                row[x] / unit,
                row["test_top1_pct"],
                yerr=row.get("test_top1_pct_std"),
                fmt="D" if method == "dense" else "o",
                color=colours[method],
                capsize=3,
                label=label_of(method),
            )
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
        axes.set_ylabel("Test top-1 %")
        axes.margins(y=0.2)
        axes.grid(alpha=0.25, color=INK, linewidth=0.5)
        legend(figure, len(points))

    return svg(draw, f"Test accuracy against {label.lower()}")


def training_curves(runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> str | None:
    """A figure of accuracy over the epochs: validation accuracy if a run has one, else training accuracy.

    Each method has one colour: a line for the mean over the seeds, and a band from the lowest to the highest seed.

    Args:
        runs: for each method, one sequence of epoch metrics for each seed.

    Returns:
        SVG; None without any epoch.
    """
    epochs = [epoch for seeds in runs.values() for history in seeds for epoch in history]
    if not epochs:
        return None
    key, name = "val_top1_pct", "Validation"
    if all(epoch.get(key) is None for epoch in epochs):
        key, name = "train_top1_pct", "Train"

    colours = colours_of(list(runs))
    from matplotlib.ticker import MaxNLocator

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for method, seeds in runs.items():
            by_epoch: dict[int, list[float]] = {}
            for history in seeds:
                for epoch in history:
                    if epoch.get(key) is not None:
                        by_epoch.setdefault(epoch["epoch"], []).append(epoch[key])
            x, values = sorted(by_epoch), [by_epoch[epoch] for epoch in sorted(by_epoch)]
            means = [sum(one) / len(one) for one in values]
            kept = thinned(means)
            axes.plot(
                [x[i] for i in kept], [means[i] for i in kept],
                color=colours[method], linewidth=1.2, label=label_of(method),
            )  # fmt: skip
            if len(seeds) > 1:
                lows, highs = [min(one) for one in values], [max(one) for one in values]
                kept = sorted({*thinned(lows), *thinned(highs)})
                axes.fill_between(
                    [x[i] for i in kept], [lows[i] for i in kept], [highs[i] for i in kept],
                    color=colours[method], alpha=0.2, linewidth=0,
                )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("Epoch")
        axes.set_ylabel(f"{name} top-1 %")
        axes.grid(alpha=0.25, color=INK, linewidth=0.5)
        legend(figure, len(runs))

    return svg(draw, f"{name} accuracy by epoch")


def thinned(values: Sequence[float], most: int = MOST_POINTS) -> list[int]:
    """The indices of at most about `most` values that look like all of them on a plot: of each part of the line, the first, the
    least, the largest and the last value.

    >>> thinned([0, 1, 0, 9, 0, 1, 0, -5], most=4)
    [0, 3, 7]
    >>> thinned([3, 1, 2])
    [0, 1, 2]
    """
    if len(values) <= most:
        return list(range(len(values)))
    size = -(-len(values) * 4 // most)
    found: set[int] = set()
    for start in range(0, len(values), size):
        part = range(start, min(start + size, len(values)))
        found |= {part[0], min(part, key=values.__getitem__), max(part, key=values.__getitem__), part[-1]}
    return sorted(found)


def label_of(name: str) -> str:
    """A name as the text of a legend: shortened, and with a leading space before "_", because matplotlib hides such names.

    >>> label_of("_mine")
    ' _mine'
    """
    text = short(name)
    return f" {text}" if text.startswith("_") else text


def legend(figure: Figure, entries: int) -> None:
    """Add a legend below the plot, unless it has more than 16 entries and would leave no room for the plot.

    (Labels beside the points would overlap, because methods are close together.)
    """
    if entries <= 16:
        figure.legend(loc="outside lower center", ncols=2, fontsize=8, labelcolor=INK)


# the colours of Okabe and Ito, which colour-blind readers can distinguish
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a7a00")


def colours_of(methods: Sequence[str]) -> dict[str, str]:
    """A colour for each method, the same in every figure of a page; dense is grey.

    >>> colours_of(["dense", "split()"])
    {'dense': '#7f7f7f', 'split()': '#D55E00'}
    """
    return {
        method: "#7f7f7f" if method == "dense" else COLOURS[index % len(COLOURS)]
        for index, method in enumerate(methods)
    }


def svg(draw: Any, title: str, inches: tuple[float, float] = (5.2, 4.0)) -> str:
    """Draw a figure and return it as one SVG element. The same drawing always gives the same text.

    Args:
        draw: a function that draws on an empty matplotlib figure.
        title: for screen readers.
        inches: width and height.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        with literal(figure):
            figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(title, quote=True)}" ', 1).strip()
