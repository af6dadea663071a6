"""The runs of a comparison as rows of figures, one row a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from torch import nn

from leanconv.core.method import DENSE
from leanconv.experiment.run import Run
from leanconv.report.tables import Row

if TYPE_CHECKING:
    from leanconv.timing.latency import Latency


@dataclass
class MethodRuns:
    """The runs of one method.

    Args:
        label: the name of the method.
        counts: params, macs and weight_bytes of its network.
        done: the finished runs, by seed.
        failed: the reasons of the failed runs, by seed.
    """

    label: str
    counts: dict[str, Any]
    done: dict[int, Run] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def network(self) -> nn.Module:
        """The trained network of the lowest seed."""
        return self.done[min(self.done)].network


def make_rows(methods: Mapping[str, MethodRuns], latencies: Mapping[str, Latency]) -> list[Row]:
    """A row for each method; ratios compare with dense, or else with the first method.

    Without a time of that network, there are no ratios of times: those in `latencies` compare with another network.
    """
    base = methods.get(DENSE) or next(iter(methods.values()))
    return [_row(runs, base, latencies.get(label), base.label in latencies) for label, runs in methods.items()]


def _row(runs: MethodRuns, base: MethodRuns, latency: Latency | None, to_base: bool) -> Row:
    done = [runs.done[seed].summary for seed in sorted(runs.done)]
    row: Row = {
        "method": runs.label,
        "n": len(done),
        "seeds": sorted(runs.done),
        "ratios_to": base.label,
        **runs.counts,
    }
    for name in ("params", "macs"):
        row[f"{name}_ratio"] = runs.counts[name] / base.counts[name]
    row |= _scores("test_top1_pct", {run["seed"]: run["test"]["top1_pct"] for run in done})
    row |= _scores("test_top5_pct", {run["seed"]: run["test"]["top5_pct"] for run in done})
    row |= _scores("val_top1_pct", {run["seed"]: run["train"]["val_top1_pct"] for run in done})
    for name in ("train_seconds", "images_per_s"):
        row[name] = mean(run["train"][name] for run in done) if done else None
    row |= _latency(latency, latency if to_base else None)
    seeds = ", ".join(map(str, sorted(runs.failed)))
    reasons = "; ".join(sorted(set(runs.failed.values())))
    return row | {"failed": f"seed {seeds}: {reasons}" if runs.failed else None}


def _scores(name: str, by_seed: Mapping[int, float | None]) -> Row:
    values = [value for value in by_seed.values() if value is not None]
    return {
        name: mean(values) if values else None,
        f"{name}_std": stdev(values) if len(values) > 1 else None,
        f"{name}_by_seed": {str(seed): value for seed, value in by_seed.items()} if values else {},
    }


def _latency(latency: Latency | None, to_base: Latency | None) -> Row:
    """The times of `latency`, and the ratios of `to_base`."""
    names = {"": "median_ms", "_q25": "q25_ms", "_q75": "q75_ms"}
    row: Row = {f"latency_ms{end}": getattr(latency, name, None) for end, name in names.items()}
    row |= {f"latency_ratio{end}": getattr(to_base, f"ratio{end}", None) for end in (*names, "_low", "_high")}
    return row | {f"latency_{name}": getattr(latency, name, None) for name in ("rounds", "busy")}
