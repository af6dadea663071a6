"""One printed cell of a paper, how our side of it is counted, and what came of the comparison."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from leanconv.papers.conventions import Counted, Measure, counted, macs

SCALES = {"": 1.0, "x": 1.0, "%": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}
Evidence = Literal["derived", "inferred", "fitted", "arithmetic", "quoted"]
How = Literal["value", "share_pct", "saved_pct", "factor", "difference"]
Verdict = Literal["exact", "close", "differs", "quoted"]
CLOSE_PCT = 5.0


@dataclass(frozen=True)
class Network:
    """A network by name with its settings."""

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        given = ", ".join(f"{key}={value!r}" for key, value in self.settings)
        return f"{self.name}({given})" if given else self.name


def network(name: str, **settings: Any) -> Network:
    """The network that ``create_model(name, **settings)`` builds."""
    return Network(name, tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in settings.items()))


@cache
def _counted(of: Network) -> Counted:
    return counted(of.name, dict(of.settings))


@dataclass(frozen=True)
class Cell:
    """A figure as a paper prints it: "445K", "1.8M", "0.10"."""

    text: str

    def _parts(self) -> tuple[str, str]:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)", self.text)
        if match is None:
            raise ValueError(f"{self.text!r} is no printed figure such as 445K or 1.8M")
        return match[1], match[2]

    @property
    def value(self) -> float:
        digits, unit = self._parts()
        return float(digits) * SCALES[unit]

    def agrees(self, value: float) -> bool:
        """Whether `value` is this figure: to half of its last digit, or when cut off there."""
        digits, unit = self._parts()
        ours, printed, step = value / SCALES[unit], float(digits), 10.0 ** -_decimals(digits)
        tiny = 1e-9 * max(1.0, abs(ours))
        return abs(ours - printed) <= step / 2 + tiny or math.isclose(math.floor(ours / step + 1e-9) * step, printed)

    def rounds(self, value: float) -> float:
        """`value` with the digits that this cell shows: its own figure where it agrees, rounded or cut off as it was."""
        digits, unit = self._parts()
        return self.value if self.agrees(value) else round(value / SCALES[unit], _decimals(digits)) * SCALES[unit]


Side = Network | Cell


@dataclass(frozen=True)
class CountRule:
    """How a figure is counted.

    Args:
        of, against: networks, or printed cells where nobody can build the network.
        how: of; 100 of / against; 100 (1 - of / against); against / of; of - against.
        rounded: cells of (against, of): our counts get their digits first, as a paper does that divides rounded cells.
        base: the network that `against` stands for where that is a cell: its MACs are shown beside the factor.
    """

    measure: Measure
    of: Side
    against: Side | None = None
    how: How = "value"
    rounded: tuple[str, str] | None = None
    base: Network | None = None

    def macs_ratio(self) -> float | None:
        """MACs of `of` to those of `against`, where both can be built: what a compression factor costs in compute."""
        base = self.base or self.against
        if not isinstance(self.of, Network) or not isinstance(base, Network):
            return None
        return macs(_counted(self.of)) / macs(_counted(base))

    def value(self) -> float:
        of = self._count(self.of, 1)
        if self.how == "value":
            return of
        assert self.against is not None, f"{self.how} compares with another network"
        against = self._count(self.against, 0)
        return {
            "share_pct": 100 * of / against,
            "saved_pct": 100 * (1 - of / against),
            "factor": against / of,
            "difference": of - against,
        }[self.how]

    def _count(self, side: Side, place: int) -> float:
        if isinstance(side, Cell):
            return side.value
        value = self.measure(_counted(side))
        return Cell(self.rounded[place]).rounds(value) if self.rounded else value


@dataclass(frozen=True)
class PrintedCount:
    """One printed cell.

    Args:
        printed: its digits as printed; unit: "K", "M", "G", "%", "x" (a factor) or nothing.
        figure: how our side is counted; None where the paper only quotes others.
        config: how the network is built, in a line.
        evidence: derived from the text; inferred from several counts; fitted on this very figure; arithmetic on
            printed cells; or quoted by the paper from others.
        reason: why ours differs; every row that is not exact has one.
    """

    paper: str
    table: str
    row: str
    metric: str
    printed: str
    unit: str
    figure: CountRule | None
    config: str
    evidence: Evidence
    reason: str = ""

    def ours(self) -> float | None:
        """Our figure in the row's unit; None for a quoted row."""
        return None if self.figure is None else self.figure.value() / SCALES[self.unit]

    def deviation_pct(self) -> float | None:
        ours = self.ours()
        return None if ours is None else 100 * (ours / float(self.printed) - 1)

    def macs_ratio(self) -> float | None:
        """Our MACs to those of the network compared with; None for a figure that compares nothing."""
        return None if self.figure is None else self.figure.macs_ratio()

    def verdict(self) -> Verdict:
        """exact: equal to half of the last printed digit, or when cut off there; close: within 5 %."""
        ours, printed = self.ours(), float(self.printed)
        if ours is None:
            return "quoted"
        if Cell(self.printed).agrees(ours):
            return "exact"
        return "close" if abs(ours / printed - 1) <= CLOSE_PCT / 100 else "differs"

    def to_json(self) -> dict[str, Any]:
        figure = self.figure
        return {
            "paper": self.paper,
            "table": self.table,
            "row": self.row,
            "metric": self.metric,
            "printed": self.printed,
            "unit": self.unit,
            "ours": self.ours(),
            "deviation_pct": self.deviation_pct(),
            "verdict": self.verdict(),
            "macs_ratio": self.macs_ratio(),
            "network": None if figure is None else str(figure.of if isinstance(figure.of, Network) else figure.against),
            "counted_as": None if figure is None else figure.measure.__name__,
            "config": self.config,
            "evidence": self.evidence,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Accuracy:
    """A printed accuracy or error in percent, and how to train towards it.

    Args:
        metric: "top1", "top5", "error", "AP", ...
        network: what to train; None where the paper quotes others.
        recipe: a function of `leanconv.train.recipes`, or of `leanconv.detect.recipes` for a detector; None where there is none.
        detector: which one, on `network` as its backbone.
    """

    paper: str
    table: str
    row: str
    dataset: str
    printed: str
    metric: str = "top1"
    network: Network | None = None
    recipe: str | None = None
    reason: str = ""
    detector: str | None = None


def _decimals(digits: str) -> int:
    return len(digits.partition(".")[2])
