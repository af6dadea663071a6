"""Sentences that say what got better and what got worse. Each claim needs a measurement that supports it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from leanconv.core.paired import CONFIDENCE, paired_interval, student_t
from leanconv.report.tables import Row
from leanconv.timing.busy import BUSY
from leanconv.timing.latency import SAME, apart

SIGNS = 6  # with 6 pairs, equal signs alone show a difference at 95 %: 2 / 2**6 is below 0.05


def sentences(rows: Sequence[Row]) -> list[str]:
    """A verdict for each row, compared with the row that its ratios refer to; [] if that row is missing.

    Args:
        rows: of a comparison, see `leanconv.report.tables.columns`.
    """
    base = next((row for row in rows if row["method"] == row.get("ratios_to", "dense")), None)
    return [] if base is None else [verdict(row, base) for row in rows if row is not base]


def verdict(row: Row, base: Row) -> str:
    """One sentence that compares `row` with `base`: what is better, what is worse, and what the measurement cannot tell.

    >>> verdict({"method": "split()", "params_ratio": 0.39, "macs_ratio": 0.37}, {"method": "dense"})
    'split(): better in parameters (0.39 of dense) and MACs (0.37 of dense).'
    """
    name_of_base = base["method"]
    better: list[str] = []
    worse: list[str] = []
    open_: list[str] = []
    for name, text in (("params_ratio", "parameters"), ("macs_ratio", "MACs")):
        value = row.get(name)
        if value is None:
            continue
        if abs(value - 1) < SAME:
            open_.append(f"the {text} do not change")
        else:
            (better if value < 1 else worse).append(f"{text} ({value:.2f} of {name_of_base})")
    _latency(row, name_of_base, better, worse, open_)
    if row.get("failed") and row.get("test_top1_pct") is None:
        open_.append(f"there is no accuracy, because training failed ({row['failed']})")
    else:
        _accuracy(row, base, better, worse, open_)
    parts = []
    if better:
        parts.append("better in " + _list(better))
    if worse:
        parts.append("worse in " + _list(worse))
    text = f"{row['method']}: " + ("; ".join(parts) or "neither better nor worse")
    return text + (f"; {'; '.join(open_)}." if open_ else ".")


def _latency(row: Row, base: str, better: list[str], worse: list[str], open_: list[str]) -> None:
    value = row.get("latency_ratio")
    if value is None:
        return
    low, high, what = row.get("latency_ratio_low"), row.get("latency_ratio_high"), "95 % interval"
    if "latency_ratio_low" not in row:  # an older file, without intervals
        low, high, what = row["latency_ratio_q25"], row["latency_ratio_q75"], "quartiles"
    if low is None or high is None:
        open_.append(
            f"measured latency ({value:.2f} of {base}) comes from {row['latency_rounds']} rounds, too few to tell"
        )
        return
    spread = f"({value:.2f} of {base}, {what} {low:.2f}-{high:.2f})"
    found, busy = apart(low, high), row.get("latency_busy")
    if found is None:
        open_.append(f"measured latency is not clearly different {spread}")
    elif busy is not None and busy > BUSY:
        others = f"other programs used {busy:.0%} of the CPUs during the measurement"
        open_.append(f"measured latency {spread} is not reliable: {others}")
    else:
        (better if found == "faster" else worse).append(f"measured latency {spread}")


def _accuracy(row: Row, base: Row, better: list[str], worse: list[str], open_: list[str]) -> None:
    """Add test accuracy as better or worse if the 95 % interval of the difference does not contain 0.

    The difference is paired by seed if both rows have the same seeds.
    """
    if row.get("test_top1_pct") is None or base.get("test_top1_pct") is None:
        return
    ours, theirs = _by_seed(row), _by_seed(base)
    both = [seed for seed in ours if seed in theirs]
    if len(both) > 1:
        differences = [ours[seed] - theirs[seed] for seed in both]
        difference, interval, over = fmean(differences), _paired(differences), f"over {len(both)} seeds"
    else:
        difference = row["test_top1_pct"] - base["test_top1_pct"]
        interval, over = (
            _unpaired(row, base),
            f"from {_seeds(row['n'])} against {_seeds(base['n'])} of {base['method']}",
        )
    if interval is None:
        open_.append(
            f"test accuracy ({difference:+.2f} points, {over}) is not distinguishable: too few seeds to know its spread"
        )
        return
    low, high = interval
    text = f"({difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f} {over})"
    if low > 0 or high < 0:
        (better if low > 0 else worse).append(f"test accuracy {text}")
    else:
        open_.append(f"test accuracy is not distinguishable {text}")


def _by_seed(row: Row) -> dict[str, float]:
    found = row.get("test_top1_pct_by_seed") or {}
    return {seed: value for seed, value in found.items() if value is not None}


def _paired(differences: Sequence[float]) -> tuple[float, float] | None:
    interval = paired_interval(differences)
    if interval is not None and interval[0] == interval[1] and len(differences) < SIGNS:
        return None  # accuracies are counts, so a few equal differences do not show the spread
    return interval


def _unpaired(row: Row, base: Row) -> tuple[float, float] | None:
    """Welch's interval from means and standard deviations, for rows without values by seed or with different seeds."""
    parts = [(row.get("test_top1_pct_std"), row["n"]), (base.get("test_top1_pct_std"), base["n"])]
    if any(deviation is None or n < 2 for deviation, n in parts):
        return None
    variances = [(deviation**2 / n, n - 1) for deviation, n in parts if deviation is not None]
    total = sum(variance for variance, _ in variances)
    if total == 0:
        return None
    degrees = total**2 / sum(variance**2 / free for variance, free in variances)
    half = student_t(CONFIDENCE, max(1, int(degrees))) * math.sqrt(total)
    difference = row["test_top1_pct"] - base["test_top1_pct"]
    return difference - half, difference + half


def _seeds(number: int) -> str:
    return "1 seed" if number == 1 else f"{number} seeds"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
