"""What got better and what did not, in plain sentences: each claim only as strong as what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leanconv.bench.busy import BUSY
from leanconv.bench.latency import SAME, apart

Row = Mapping[str, Any]


def sentences(rows: Sequence[Row]) -> list[str]:
    """One sentence or two for each row against the one that the ratios are to; none where that is missing."""
    base = next((row for row in rows if row["method"] == row.get("ratios_to", "dense")), None)
    return [] if base is None else [verdict(row, base) for row in rows if row is not base]


def verdict(row: Row, base: Row) -> str:
    """How `row` stands to `base`: what is better, what is worse, and what the measurement cannot tell."""
    name_of_base = base["method"]
    better: list[str] = []
    worse: list[str] = []
    open_: list[str] = []
    for name, text in (("params_ratio", "parameters"), ("macs_ratio", "MACs")):
        value = row.get(name)
        if value is None:
            continue
        if abs(value - 1) < SAME:
            open_.append(f"the {text} are as many as before")
        else:
            (better if value < 1 else worse).append(f"{text} ({value:.2f} of {name_of_base})")
    _latency(row, name_of_base, better, worse, open_)
    if row.get("failed") and row.get("test_top1_pct") is None:
        open_.append(f"there is no accuracy, since training failed ({row['failed']})")
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
    if "latency_ratio_low" not in row:  # measured before intervals were
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
        others = f"other programs used {busy:.0%} of the CPUs meanwhile"
        open_.append(f"measured latency {spread} is not to be trusted: {others}")
    else:
        (better if found == "faster" else worse).append(f"measured latency {spread}")


def _accuracy(row: Row, base: Row, better: list[str], worse: list[str], open_: list[str]) -> None:
    ours, theirs = row.get("test_top1_pct_by_seed") or {}, base.get("test_top1_pct_by_seed") or {}
    if not ours or not theirs:
        return
    difference = row["test_top1_pct"] - base["test_top1_pct"]
    text = f"test accuracy ({difference:+.2f} points)"
    if min(len(ours), len(theirs)) < 2:
        open_.append(
            f"{text} comes from {_seeds(len(ours))} against {_seeds(len(theirs))} of {base['method']}, too few to know its spread"
        )
    elif min(ours.values()) > max(theirs.values()):
        better.append(f"test accuracy ({difference:+.2f} points, every seed above every {base['method']} one)")
    elif max(ours.values()) < min(theirs.values()):
        worse.append(f"test accuracy ({difference:+.2f} points, every seed below every {base['method']} one)")
    else:
        open_.append(f"{text} is within the spread over seeds")


def _seeds(number: int) -> str:
    return "1 seed" if number == 1 else f"{number} seeds"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
