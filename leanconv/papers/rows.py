"""One printed cell of a paper, the way to count our figure for it, and the result of the comparison."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from leanconv.papers.conventions import Counted, Measure, counted, macs

SCALES = {"": 1.0, "x": 1.0, "%": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}
Evidence = Literal["derived", "inferred", "fitted", "arithmetic", "quoted"]
How = Literal["value", "share_pct", "saved_pct", "more_pct", "factor", "difference"]
Verdict = Literal["equal", "truncated", "close", "differs", "quoted"]
CLOSE_PCT = 5.0


@dataclass(frozen=True)
class Network:
    """The name of a network, and its settings.

    Args:
        name, settings: for `leanconv.create_model`.
        kept_macs: the share of its MACs that structured pruning keeps (`leanconv.prune` with the same share in every layer, whole
            channels); None for a network that is not pruned.
    """

    name: str
    settings: tuple[tuple[str, Any], ...] = ()
    kept_macs: float | None = None

    def __str__(self) -> str:
        given = ", ".join(f"{key}={value!r}" for key, value in self.settings)
        pruned = "" if self.kept_macs is None else f", pruned(macs={self.kept_macs}, align=1)"
        return (f"{self.name}({given})" if given else self.name) + pruned


def network(name: str, **settings: Any) -> Network:
    """The network that ``create_model(name, **settings)`` builds.

    >>> print(network("basis_resnet56", bases=2))
    basis_resnet56(bases=2)
    """
    return Network(name, tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in settings.items()))


@cache
def _counted(of: Network) -> Counted:
    return counted(of.name, dict(of.settings), of.kept_macs)


@dataclass(frozen=True)
class Cell:
    """A figure as a paper prints it, such as "445K", "1.8M" or "0.10".

    >>> Cell("1.8M").value, Cell("445K").agrees(445_440), Cell("445K").agrees(446_000)
    (1800000.0, True, False)
    """

    text: str

    def _parts(self) -> tuple[str, str]:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)", self.text)
        if match is None:
            raise ValueError(f"{self.text!r} is no printed figure such as 445K or 1.8M")
        return match[1], match[2]

    @property
    def value(self) -> float:
        """The figure as a number."""
        digits, unit = self._parts()
        return float(digits) * SCALES[unit]

    def equals(self, value: float) -> bool:
        """Whether `value`, rounded to the printed digits, equals this figure."""
        ours, printed, step = self._in_digits(value)
        return abs(ours - printed) <= step / 2 + 1e-9 * max(1.0, abs(ours))

    def truncates(self, value: float) -> bool:
        """Whether `value`, cut off after the printed digits, equals this figure."""
        ours, printed, step = self._in_digits(value)
        return math.isclose(math.floor(ours / step + 1e-9) * step, printed)

    def agrees(self, value: float) -> bool:
        """Whether `value`, rounded or cut off to the printed digits, equals this figure."""
        return self.equals(value) or self.truncates(value)

    def _in_digits(self, value: float) -> tuple[float, float, float]:
        """`value` in the unit of this figure, the figure, and the worth of its last digit."""
        digits, unit = self._parts()
        return value / SCALES[unit], float(digits), 10.0 ** -_decimals(digits)

    def rounds(self, value: float) -> float:
        """`value` with as many digits as this cell. If `value` agrees with the cell, the result is exactly the cell's figure.

        >>> Cell("445K").rounds(445_440), Cell("445K").rounds(446_700)
        (445000.0, 447000.0)
        """
        digits, unit = self._parts()
        return self.value if self.agrees(value) else round(value / SCALES[unit], _decimals(digits)) * SCALES[unit]


Side = Network | Cell


@dataclass(frozen=True)
class CountRule:
    """The way to count a figure.

    Args:
        measure: what to count, a function of `leanconv.papers.conventions`.
        of, against: networks, or printed cells of networks that cannot be built.
        how: "value": of; "share_pct": 100 of / against; "saved_pct": 100 (1 - of / against); "more_pct": 100 (of / against - 1); "factor": against / of;
            "difference": of - against.
        rounded: the printed cells of (against, of). A paper that divides rounded cells needs them: our counts are rounded to
            the same digits first.
        base: the network of `against` if `against` is a cell. Its MACs are used for `macs_ratio`.
    """

    measure: Measure
    of: Side
    against: Side | None = None
    how: How = "value"
    rounded: tuple[str, str] | None = None
    base: Network | None = None

    def macs_ratio(self) -> float | None:
        """The MACs of `of` divided by the MACs of `against`; None if one of them cannot be built.

        This shows the computation that a compression factor costs.
        """
        base = self.base or self.against
        if not isinstance(self.of, Network) or not isinstance(base, Network):
            return None
        return macs(_counted(self.of)) / macs(_counted(base))

    @property
    def of_cells(self) -> bool:
        """Whether the figure only divides printed cells, and no network of ours is counted."""
        return isinstance(self.of, Cell) and isinstance(self.against, Cell)

    def value(self) -> float:
        """The figure, counted on our networks."""
        of = self._count(self.of, 1)
        if self.how == "value":
            return of
        assert self.against is not None, f"{self.how} needs a network to compare with"
        against = self._count(self.against, 0)
        return {
            "share_pct": 100 * of / against,
            "saved_pct": 100 * (1 - of / against),
            "more_pct": 100 * (of / against - 1),
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
    """One printed cell of a paper.

    Args:
        paper: a key of `leanconv.papers.catalogue.PAPERS`.
        table, row, metric: where the figure is printed, and what it counts.
        printed: the printed digits.
        unit: "K", "M", "G", "%", "x" (a factor) or "".
        figure: the way to count our figure; None if the paper only quotes others.
        config: how the network is built, in one line.
        evidence: where this structure comes from: "derived" from the text, "inferred" from several counts, "fitted" to this
            figure, "arithmetic" on printed cells, or "quoted" by the paper from others.
        reason: why our figure differs; every row that is close or differs has a reason.
        again: a second construction of a printed cell. Another row counts the construction that the text describes; this row is
            shown, and no sum counts it.
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
    again: bool = False

    def ours(self) -> float | None:
        """Our figure in the unit of the row; None for a quoted row."""
        return None if self.figure is None else self.figure.value() / SCALES[self.unit]

    def deviation_pct(self) -> float | None:
        """The deviation of our figure from the printed one, in percent; None for a quoted row."""
        ours = self.ours()
        return None if ours is None else 100 * (ours / float(self.printed) - 1)

    def macs_ratio(self) -> float | None:
        """See `CountRule.macs_ratio`; None for a quoted row."""
        return None if self.figure is None else self.figure.macs_ratio()

    def verdict(self) -> Verdict:
        """The result of the comparison.

        "equal": our figure, rounded to the printed digits, is the printed figure. "truncated": ours, cut off after the printed
        digits, is the printed figure. "close": within 5 %. "differs": anything else. "quoted": nothing here is counted.
        """
        ours, printed = self.ours(), float(self.printed)
        if ours is None:
            return "quoted"
        if Cell(self.printed).equals(ours):
            return "equal"
        if Cell(self.printed).truncates(ours):
            return "truncated"
        return "close" if abs(ours / printed - 1) <= CLOSE_PCT / 100 else "differs"

    def to_json(self) -> dict[str, Any]:
        """All values of the row, for a JSON file."""
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
            "again": self.again,
            "macs_ratio": self.macs_ratio(),
            "network": None if figure is None else str(figure.of if isinstance(figure.of, Network) else figure.against),
            "counted_as": None if figure is None else figure.measure.__name__,
            "config": self.config,
            "evidence": self.evidence,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Accuracy:
    """A printed accuracy or error in percent, and how to train the network for it.

    Args:
        paper, table, row: where the figure is printed.
        dataset: what the network is trained on.
        printed: the printed digits.
        metric: "top1", "top5", "error", "AP", ...
        network: what to train; None if the paper quotes others.
        recipe: the name of a recipe in `leanconv.train.recipes`, or in `leanconv.detect.recipes` for a detector; None without one.
        reason: a remark.
        detector: the name of the detector that has `network` as its backbone.
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
