"""Budgets: how lean a network must become, as text, as a mapping or as keywords. This module imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leanconv.core.calls import close_to
from leanconv.core.errors import SettingError

# measure -> (unit in messages, factor of each suffix)
COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
SIZES = {f"{prefix}{end}": factor for end in ("B", "") for prefix, factor in COUNTS.items() if prefix or end}
SIZES |= {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
TIMES = {"ms": 1.0, "us": 1e-3, "s": 1e3}
SUFFIXES = {"time": TIMES, "macs": COUNTS, "params": COUNTS, "bytes": SIZES, "memory": SIZES}
MEASURES = tuple(SUFFIXES)
EXAMPLES = {"time": "12ms", "macs": "60M", "params": "250k", "bytes": "1MB", "memory": "20MB"}
DROP = "max_drop"
EXAMPLE = "time=0.5, or for several limits time=0.5,params=0.25"
MEANT = 1e3  # a count below this without a unit lacks its unit: no network is so small
NUMBER = re.compile(r"([+-]?\d+(?:\.\d*)?(?:e[+-]?\d+)?|[+-]?\.\d+)\s*([A-Za-z]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Limit:
    """The largest value of one measure.

    Args:
        measure: one of `MEASURES`: time in milliseconds a call, MACs of one image, parameters, bytes of the weights, or peak
            memory in bytes (weights and feature maps of a call).
        value: a part of the dense network's value, or a value in the unit of the measure.
        relative: whether `value` is such a part.
    """

    measure: str
    value: float
    relative: bool

    def most(self, dense: float) -> float:
        """The limit in the unit of the measure.

        Args:
            dense: the value of the dense network.
        """
        return self.value * dense if self.relative else self.value

    def __str__(self) -> str:
        return (
            f"{self.measure}={self.value:g}" if self.relative else f"{self.measure}={shown(self.measure, self.value)}"
        )


@dataclass(frozen=True)
class Budget:
    """Limits that all hold at once, or the largest loss of accuracy.

    Args:
        limits: at most one for each measure.
        max_drop: the largest loss of validation accuracy in percentage points, or of the user's own metric in its unit. The
            search then finds the leanest network within this loss.

    >>> budget = Budget.of("time=0.5, params=250k")
    >>> str(budget), budget.limits[1].most(dense=1_000_000)
    ('time=0.5,params=250k', 250000.0)
    >>> Budget.of({"macs": 0.5}) == Budget.of("macs=0.5")
    True
    """

    limits: tuple[Limit, ...]
    max_drop: float | None = None

    @classmethod
    def of(cls, value: Budget | str | Mapping[str, Any]) -> Budget:
        """The budget in a text such as "time=0.5,params=0.25", or in a mapping such as {"time": "12ms"}.

        Raises:
            SettingError: a measure is unknown or given twice, a value has no meaning, or there is no limit.
        """
        if isinstance(value, Budget):
            return value
        pairs = [*value.items()] if isinstance(value, Mapping) else _pairs(value)
        names = [name for name, _ in pairs]
        for name in names:
            if name not in (*MEASURES, DROP):
                known = (*MEASURES, DROP)
                raise SettingError(
                    f"budget: unknown measure {name!r}{close_to(str(name), known)}; there are {', '.join(known)}"
                )
            if names.count(name) > 1:
                raise SettingError(f"budget: {name} is given twice; leave one out")
        drops = [_drop(given) for name, given in pairs if name == DROP]
        limits = tuple(_limit(name, given) for name, given in pairs if name != DROP)
        if not pairs:
            raise SettingError(
                f"there is no budget; give --budget (budget=) {EXAMPLE}; or --max-drop 1.0 (max_drop=1.0)"
            )
        return cls(limits, *drops)

    def most(self, dense: Mapping[str, float]) -> dict[str, float]:
        """The limit of each measure in its unit.

        Args:
            dense: the values of the dense network.
        """
        return {limit.measure: limit.most(dense[limit.measure]) for limit in self.limits}

    def __str__(self) -> str:
        drop = [] if self.max_drop is None else [f"{DROP}={self.max_drop:g}"]
        return ",".join([*map(str, self.limits), *drop])


def shown(measure: str, value: float) -> str:
    """A value of a measure with its unit, as `Budget.of` reads it.

    >>> shown("macs", 61_500_000), shown("time", 1.234), shown("bytes", 2_000_000)
    ('61.5M', '1.23ms', '2MB')
    """
    if measure == "time":
        return f"{value:.3g}ms"
    for prefix in ("G", "M", "k", ""):
        factor = COUNTS[prefix]
        if value >= factor or not prefix:
            return f"{value / factor:.4g}{prefix}{'B' if measure in ('bytes', 'memory') else ''}"
    raise AssertionError


def _pairs(text: Any) -> list[tuple[str, str]]:
    if not isinstance(text, str):
        raise SettingError(f"budget={text!r} must be a text or a mapping; such as {EXAMPLE}")
    pairs = []
    for piece in filter(None, map(str.strip, text.split(","))):
        name, equals, value = piece.partition("=")
        if not equals:
            raise SettingError(f"budget: {piece!r} is not measure=value; write {EXAMPLE}")
        pairs.append((name.strip().replace("-", "_"), value.strip()))
    return pairs


def _limit(measure: str, given: Any) -> Limit:
    suffixes, example = SUFFIXES[measure], EXAMPLES[measure]
    rule = f"budget: {measure}={given!r} must be a part of the dense network above 0 and at most 1, or a value such as {example}"
    match = NUMBER.fullmatch(str(given).strip()) if not isinstance(given, bool) else None
    if match is None:
        raise SettingError(rule)
    number, suffix = float(match[1]), match[2]
    if not math.isfinite(number) or number <= 0:
        raise SettingError(rule)
    if not suffix and number <= 1:
        return Limit(measure, number, relative=True)
    if not suffix and suffix in suffixes and number < MEANT:
        raise SettingError(
            f"budget: {measure}={given} is neither a part (at most 1) nor has it a unit; "
            f"write {measure}=0.5 or {measure}={example}"
        )
    if suffix not in suffixes:
        raise SettingError(f"{rule}; its units are {', '.join(filter(None, suffixes))}")
    return Limit(measure, number * suffixes[suffix], relative=False)


def _drop(given: Any) -> float:
    try:
        value = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not value >= 0 or not math.isfinite(value):
        raise SettingError(
            f"budget: {DROP}={given!r} must be a number of at least 0: the points of accuracy that may be lost"
        )
    return value
