"""The result of a search for a lean detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from leanconv.budget.result import LeanResult
from leanconv.conversion.apply import plan_of
from leanconv.conversion.plan import Plan
from leanconv.detect.maps import maps_of
from leanconv.report import detection
from leanconv.report.tables import NONE, Row, integer, macs
from leanconv.report.text_table import TextTable

HEADS = (
    "Network",
    "of",
    "AP before training",
    "AP",
    "AP50",
    "AP75",
    "Parameters",
    "Parameters, ratio",
    "MACs",
    "MACs, ratio",
    "ms",
    "ms, ratio",
)
DETECTOR_HEADS = ("Parameters of the detector", "ms of the detector", "ms of the detector, ratio")


@dataclass
class LeanDetector(LeanResult):
    """The result of `leanconv.detect.lean`: `network` and `controls` are detectors."""

    unit: ClassVar[str] = "relative squared error of the feature maps"

    @property
    def pyramid(self) -> bool:
        """Whether the pyramid was searched too."""
        return bool(self.summary["settings"]["pyramid"])

    @property
    def part(self) -> str:
        """What the costs are of."""
        return "backbone and pyramid" if self.pyramid else "backbone"

    @property
    def plan(self) -> Plan:
        """The plan of the lean backbone, and of the pyramid, if it was searched; names of its layers begin with "fpn."."""
        found = plan_of(maps_of(self.network, self.pyramid))
        assert isinstance(found, Plan)
        return found

    @property
    def backbone(self) -> nn.Module:
        """The lean network of the backbone."""
        return self.network.get_submodule("backbone.network")

    @property
    def quality(self) -> str:
        return "Metric" if self.summary["settings"]["metric"] else "AP of boxes, %"

    @property
    def quality_in_text(self) -> str:
        return "metric" if self.summary["settings"]["metric"] else "AP of boxes"

    def table(self) -> TextTable:
        settings = self.summary["settings"]
        data = settings["data"]
        own = ["Metric"] if settings["metric"] else []
        cells = [line for row in self.rows for line in _lines(row, self.rows[0], bool(own))]
        height, width = data["input_size"][1:]
        note = (
            f"Parameters, MACs and ms are those of the {self.part} at {height} x {width} pixels. ms: a call of "
            f"{settings['config']['batch']} photo(s) in eager PyTorch on this CPU, interleaved, median; ratios compare with "
            f"dense. AP: on {data['photos']} photos of the {data['part']} part. {detection.NOTE}"
        )
        heads = [*HEADS[:1], *own, *HEADS[1:], *DETECTOR_HEADS]
        return TextTable(heads, cells, note=note, title=self.title, left=("Network", "of"))

    def occlusion_table(self) -> TextTable:
        """Average precision by the occlusion ratio of the photos."""
        heads, cells = detection.slices(self.rows)
        title = f"Under occlusion, by {self.rows[0]['val']['by']}"
        return TextTable(heads, cells, note=detection.OCCLUSION_NOTE, title=title)

    def details(self) -> dict[str, TextTable]:
        return {"Under occlusion": self.occlusion_table()} | super().details()

    def figures(self) -> dict[str, Sequence[str]]:
        kinds = self.rows[0]["val"]["metrics"]
        drawn = [detection.occlusion_figure(self.rows, kind) for kind in kinds]
        return super().figures() | {"Under occlusion": [figure for figure in drawn if figure]}

    def sentences(self) -> Sequence[str]:
        first, *others = super().sentences()
        rows = {row["network"]: row for row in self.rows}
        ratio = rows["lean"]["detector_ratio"]
        whole = f"These are of the {self.part}; the whole detector takes {ratio:.2f} of the time."
        chosen = "The network was chosen on the photos on which AP is shown, so its AP is slightly too high."
        dropped = self.summary["settings"]["budget"]["max_drop"] is not None
        return [first, whole, *([chosen] if dropped else []), *others]


def _lines(row: Row, dense: Row, metric: bool) -> list[list[str]]:
    """A line for the boxes of a detector, and one for its masks."""
    found: list[list[str]] = []
    before = None if row["before"] is None else row["before"]["metrics"]
    for kind, metrics in row["val"]["metrics"].items():
        first = not found
        own = [f"{row['quality']:.2f}" if first else ""] if metric else []
        costs = [
            integer(row["params"]), f"{row['params'] / dense['params']:.2f}", macs(row["macs"]),
            f"{row['macs'] / dense['macs']:.2f}", f"{row['latency_ms']:.3g}", f"{row['ratio']:.2f}",
            integer(row["counts"]["params"]), f"{row['detector_ms']:.3g}", f"{row['detector_ratio']:.2f}",
        ]  # fmt: skip
        shown = [NONE if before is None else detection.percent(before[kind]["AP"])]
        shown += [detection.percent(metrics[name]) for name in ("AP", "AP50", "AP75")]
        found.append([row["network"], *own, detection.KINDS[kind], *shown, *(costs if first else [""] * len(costs))])
    return found
