"""The result of a search: networks, layers and the frontier, as tables, a page and files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from leanconv.budget.limits import shown
from leanconv.conversion.apply import plan_of
from leanconv.conversion.plan import Plan
from leanconv.report import lean_tables
from leanconv.report.result import Result
from leanconv.report.tables import NONE, Row, integer, macs, size
from leanconv.report.text_table import TextTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leanconv.report.page import Page

HEADS = (
    "Network",
    "Parameters",
    "MACs",
    "Weights",
    "predicted ms",
    "ms",
    "ms, ratio",
    "before training",
    "{quality}",
    "Test top-1 %",
)
LAYER_HEADS = (
    "Layer", "Convolution", "Becomes", "Parameters", "Parameters after", "MACs", "MACs after", "ms", "ms after", "Why",
)  # fmt: skip
FRONTIER_HEADS = ("{measure}", "of dense", "Parameters", "MACs", "ms", "Summed divergence")


@dataclass
class LeanResult(Result):
    """The result of `leanconv.lean`; a notebook shows it as tables.

    Args:
        summary: the values of summary.json: settings, machine, versions, and everything that the stages found.
        network: the lean network, in eval mode.
        controls: the networks of the controls, by name.
        folder: the folder of the search; None if it was temporary.
    """

    summary: dict[str, Any]
    network: nn.Module
    controls: dict[str, nn.Module]
    folder: Path | None = None

    unit: ClassVar[str] = "nats"  # of the divergence

    @property
    def plan(self) -> Plan:
        """The plan of the lean network."""
        found = plan_of(self.network)
        assert isinstance(found, Plan)
        return found

    @property
    def rows(self) -> Sequence[Row]:
        """A row for each network: dense, lean and the controls. `quality` is the validation accuracy, or the user's metric."""
        return list(self.summary["rows"])

    @property
    def layers(self) -> Sequence[Row]:
        """A row for each layer: what it became, why, and what it costs."""
        return list(self.summary["layers"])

    @property
    def frontier(self) -> Sequence[Row]:
        """The predicted frontier: a row for each choice, from the dense network to the leanest."""
        return list(self.summary["frontier"])

    @property
    def title(self) -> str:
        """The network, the data and the budget."""
        settings = self.summary["settings"]
        return f"{settings['target']} on {settings['data']['name']}, budget {settings['asked']}"

    @property
    def quality(self) -> str:
        """The name of the column of qualities."""
        return "Validation metric" if self.summary["settings"]["metric"] else "Validation top-1 %"

    @property
    def quality_in_text(self) -> str:
        """The name of the quality within a sentence."""
        return self.quality.lower()

    def table(self) -> TextTable:
        heads = [head.format(quality=self.quality) for head in HEADS]
        settings = self.summary["settings"]["config"]
        note = (
            f"ms: milliseconds a call of {settings['batch']} image(s) in {settings['runtime']}, interleaved, median; "
            "ratios compare with dense. MACs are for one image; 1 MAC = one multiply-add."
        )
        return TextTable(heads, [_cells(row) for row in self.rows], note=note, title=self.title)

    def layer_table(self) -> TextTable:
        """What each layer became, why, and what it costs."""
        note = "The costs of layers that share weights are in the row of the first. "
        note += f"Divergence: {self.unit}, see the guide."
        return TextTable(
            LAYER_HEADS,
            [_layer(row) for row in self.layers],
            left=("Layer", "Convolution", "Becomes", "Why"),
            note=note,
        )

    def frontier_table(self) -> TextTable:
        """The predicted frontier."""
        points = self.frontier
        measure = points[0]["measure"]
        heads = [head.format(measure=measure) for head in FRONTIER_HEADS]
        cells = [
            [
                shown(measure, point[measure]), f"{point[measure] / points[0][measure]:.2f}", integer(int(point["params"])),
                macs(point["macs"]), _ms(point.get("time")), f"{point['divergence']:.3g}",
            ]
            for point in points
        ]  # fmt: skip
        return TextTable(heads, cells, note="Predicted, before any training.", title="Frontier")

    def details(self) -> dict[str, TextTable]:
        """The tables below the first one, by their titles on the page."""
        return {"Layers": self.layer_table(), "Frontier": self.frontier_table()}

    def tables(self) -> Sequence[TextTable]:
        return (self.table(), *self.details().values())

    def figures(self) -> dict[str, Sequence[str]]:
        """The figures of the page (SVG), by the title of their section."""
        networks = lean_tables.accuracy_figure(self.rows, self.quality)
        found: dict[str, Sequence[str]] = {"Frontier, and networks": [_figure(self.frontier, self.unit), networks]}
        prediction = self.summary["prediction"]
        return found | ({} if prediction is None else {"Predictions": [_predicted(prediction["pairs"], self.unit)]})

    def sentences(self) -> Sequence[str]:
        rows = {row["network"]: row for row in self.rows}
        dense, lean = rows["dense"], rows["lean"]
        found = [
            f"lean: {self.quality_in_text} {lean['quality']:.2f} against {dense['quality']:.2f} of dense "
            f"({lean['quality'] - dense['quality']:+.2f}), with {lean['params'] / dense['params']:.2f} of the parameters, "
            f"{lean['macs'] / dense['macs']:.2f} of the MACs and {lean['ratio']:.2f} of the time."
        ]
        if chance := self._chance():
            found.append(chance)
        if starts := self.summary.get("starts"):  # an earlier version had one start
            late = [one.get("late_ms", 0.0) > 0 for one in starts]  # an earlier version did not store it
            said = ", ".join(
                f"{one['from']} {one['converted']:.3g}" + " (too slow)" * slow
                for one, slow in zip(starts, late, strict=True)
            )
            taken = "nearest to the budget" if all(late) else "least in time" if any(late) else "least"
            found.append(
                f"Divergence after the conversion, by the network that the search started from: {said}; the {taken} was taken."
            )
        for name in self.controls:
            if rows[name]["quality"] > lean["quality"]:
                found.append(f"{name} is better than lean here: {rows[name]['quality']:.2f}.")
        predicted = lean["predicted"].get("time")
        if predicted is not None:
            ratio = predicted / dense["predicted"]["time"]
            found.append(f"Predicted time {ratio:.2f} of dense, measured {lean['ratio']:.2f}.")
        prediction = self.summary["prediction"]
        if prediction is not None:
            said = f"Summed scores rank {len(prediction['pairs'])} random choices with Spearman {prediction['spearman']:.2f}"
            error = prediction["time_error_pct"]
            found.append(
                said + (f"; predicted times are {error:.1f} % off in the median." if error is not None else ".")
            )
        exported = self.summary["exported"]
        if exported is not None and exported["val_top1_pct"] is not None:
            found.append(f"{exported['path']}: {exported['val_top1_pct']:.2f} % on validation.")
        return [*found, *self.summary["notes"]]

    def _chance(self) -> str | None:
        """The test accuracies, and how large a difference must be to mean anything; None without a test part."""
        rows = {row["network"]: row for row in self.rows}
        dense, lean = (rows[name].get("test_top1_pct") for name in ("dense", "lean"))
        images = self.summary["settings"]["data"].get("test")
        if dense is None or lean is None or not images:
            return None
        variance = (dense * (100 - dense) + lean * (100 - lean)) / images  # of the difference, in percent squared
        return (
            f"Test: {lean:.2f} % against {dense:.2f} % ({lean - dense:+.2f}). With {images:,} images and one run of each "
            f"network, a difference under {1.96 * math.sqrt(variance):.1f} points may be chance (95 % interval)."
        )

    def to_json(self) -> dict[str, Any]:
        """The values of summary.json."""
        return self.summary

    def page(self) -> Page:
        from leanconv.budget.config import LeanConfig
        from leanconv.report.page import table_page
        from leanconv.train.config import TrainConfig

        table = self.table()
        names = [row["network"] for row in self.rows]
        sections = [(title, [svg for svg in drawn if svg]) for title, drawn in self.figures().items()]
        details = [(name, found.heads, found.cells) for name, found in self.details().items()]
        return table_page(
            self.title, f"leanconv lean, {self.summary['created']}", table.heads, table.cells,
            notes=table.note, sentences=self.sentences(), sections=sections, details=details,
            names=names, rows=[{"method": name, **row} for name, row in zip(names, self.rows, strict=True)],
            summary=self.summary, usual={"config": LeanConfig().to_json(), "recipe": TrainConfig().to_json()},
        )  # fmt: skip


def _cells(row: Row) -> list[str]:
    one_shot, test = row["one_shot"], row["test_top1_pct"]
    return [
        row["network"], integer(row["params"]), macs(row["macs"]), size(row["weight_bytes"]), _ms(row["predicted"].get("time")),
        _ms(row["latency_ms"]), f"{row['ratio']:.2f}", NONE if one_shot is None else f"{one_shot:.2f}", f"{row['quality']:.2f}",
        NONE if test is None else f"{test:.2f}",
    ]  # fmt: skip


def _layer(row: Row) -> list[str]:
    becomes = f"{row['becomes']}, with {row['with']}" if row["with"] else row["becomes"]
    times = [_ms(row["time_dense"]), _ms(row["time"])]
    counts = [
        integer(int(row["params_dense"])),
        integer(int(row["params"])),
        macs(row["macs_dense"]),
        macs(row["macs"]),
    ]
    return [row["layer"], row["conv"], becomes, *counts, *times, row["why"]]


def _ms(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}"


def _figure(points: Sequence[Mapping[str, Any]], unit: str) -> str:
    """The predicted frontier as a figure (SVG)."""
    from leanconv.report.figures import COLOURS, INK, svg

    measure = points[0]["measure"]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        x = [point[measure] / points[0][measure] for point in points]
        axes.plot(x, [point["divergence"] for point in points], marker="o", color=COLOURS[0], linewidth=1.2)
        axes.set_xlabel(f"Predicted {measure}, of dense")
        axes.set_ylabel(f"Summed divergence, {unit}")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25, color=INK, linewidth=0.5)

    return svg(draw, f"Predicted frontier of {measure}")


def _predicted(pairs: Sequence[Sequence[float]], unit: str) -> str:
    """The summed scores of random choices, and the divergences of their networks, as a figure (SVG)."""
    from leanconv.report.figures import COLOURS, INK, svg

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(*zip(*pairs, strict=True), marker="o", linestyle="", color=COLOURS[0])
        axes.set_xlabel(f"Summed scores, {unit}")
        axes.set_ylabel(f"Divergence of the network, {unit}")
        if all(value > 0 for pair in pairs for value in pair):
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.grid(alpha=0.25, color=INK, linewidth=0.5)

    return svg(draw, "Predicted and real divergence of random choices")
