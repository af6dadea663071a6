"""Accuracy against parameters and MACs, from measured rows: compression curves and rank sweeps."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanconv.analyse.figure import panels
from leanconv.core.errors import FileError
from leanconv.core.reading import parse_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = (("params", 1e6, "parameters, M"), ("macs", 1e6, "MACs, M"), ("factor", 1.0, "times fewer parameters"))


@dataclass(frozen=True)
class Point:
    """The measured values of one network.

    Args:
        name: the name of the row.
        params, macs: parameters, and MACs for one image.
        factor: parameters of the reference, divided by the parameters of this network.
        error_pct: 100 minus the test accuracy in percent; a mean over `n` seeds.
        error_pct_std: the standard deviation over the seeds; None for one seed.
        n: the number of seeds.
        line: the name without its first swept setting; points with the same line are joined.
    """

    name: str
    params: int
    macs: int
    factor: float
    error_pct: float
    error_pct_std: float | None
    n: int
    line: str


@dataclass(frozen=True)
class Tradeoff:
    """The points in the order of the rows, and the name of the reference network."""

    points: tuple[Point, ...]
    reference: str

    def to_json(self) -> dict[str, Any]:
        """The reference and the points, as plain values."""
        return {"reference": self.reference, "points": [asdict(point) for point in self.points]}

    def plot(self) -> Figure:
        """Draw the error against parameters, MACs and the compression factor; the points of a sweep are joined."""
        figure, grid = panels(1, 3, 3.6, 3.2)
        lines: dict[str, list[Point]] = {}
        for point in self.points:
            lines.setdefault(point.line, []).append(point)
        for axes, (key, unit, label) in zip(grid[0], COSTS, strict=True):
            for number, (line, found) in enumerate(lines.items()):
                found = sorted(found, key=lambda point: getattr(point, key))
                colour = "0.5" if line == self.reference else f"C{number % 10}"
                axes.errorbar(
                    [getattr(point, key) / unit for point in found], [point.error_pct for point in found],
                    yerr=[point.error_pct_std or 0 for point in found], marker="D" if line == self.reference else "o",
                    markersize=4, linewidth=1, color=colour, capsize=2, label=line,
                )  # fmt: skip
                for point in found:
                    place = (getattr(point, key) / unit, point.error_pct)
                    text = _changing(point.name)
                    axes.annotate(text, place, fontsize=6, xytext=(3, 3), textcoords="offset points")
            axes.set_xlabel(label)
        grid[0][0].set_ylabel("test error, %")
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
        return figure


def read_tradeoff(path: str | os.PathLike[str]) -> Tradeoff:
    """Read the networks that `leanconv compare` measured: from summary.json, its folder, or a file of results/.

    Source: "Learning Deeply Shared Filter Bases", Fig. 4 (error against parameters and MACs over shared and unique
    components); ShardNet, Figs. 2 and 3 (accuracy against compression).

    Raises:
        FileError: the file does not exist or is not valid, or it has no tested network.
    """
    path = Path(path).expanduser()
    path = path / "summary.json" if path.is_dir() else path
    try:
        rows: Sequence[dict[str, Any]] = parse_json(path.read_text(encoding="utf-8"))["rows"]
        tested = [row for row in rows if row.get("test_top1_pct") is not None and row["macs"] is not None]
        reference = rows[0].get("ratios_to", rows[0]["method"])
        base = next((row for row in rows if row["method"] == reference), rows[0])
        points = tuple(
            Point(
                row["method"], row["params"], row["macs"], base["params"] / row["params"], 100 - row["test_top1_pct"],
                row.get("test_top1_pct_std"), row["n"], _line(row["method"]),
            )
            for row in tested
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        raise FileError(
            f"{path} is not a result of leanconv compare ({error}); give its folder or its summary.json"
        ) from error
    if not points:
        raise FileError(f"{path} has no tested network; train some with leanconv compare")
    return Tradeoff(points, str(reference))


SWEPT = r"(shared|blocks|ratio|width|rank)=([\d.]+)"  # the settings that a sweep changes


def _line(name: str) -> str:
    return re.sub(SWEPT, r"\1", name, count=1)


def _changing(name: str) -> str:
    match = re.search(SWEPT, name)
    return match[2] if match else ""
