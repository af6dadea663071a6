"""The main job: several methods on one network, trained alike, measured together, in one folder of results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from leanconv.cli.methods import DENSE
from leanconv.cli.runs import Job

from leanconv.cli import runs
from leanconv.cli.output import say
from leanconv.core.errors import LeanconvError, RunError, SettingError

if TYPE_CHECKING:
    from leanconv.timing.latency import Latency

Row = dict[str, Any]
FOLDER_OF_SEED = re.compile(r"seed\d+")


@dataclass
class Method:
    """The runs of one method: finished ones by seed, and why others failed.

    Args:
        counts: params, macs and weight_bytes of its network.
    """

    label: str
    counts: dict[str, Any]
    done: dict[int, dict[str, Any]] = field(default_factory=dict)
    folders: dict[int, Path] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


def folder_of(label: str, seed: int) -> Path:
    """Where a run lives, below the folder of its comparison."""
    return Path(slug(label)) / f"seed{seed}"


def slug(label: str) -> str:
    """`label` as a file name."""
    return re.sub(r"[^A-Za-z0-9._=]+", "-", re.sub(r"['\"]", "", label)).strip("-")


def train_all(jobs: Sequence[Job], out: Path, *, progress: bool = True, **device: Any) -> dict[str, Method]:
    """Train every job that is not finished yet; a failing one does not stop the others.

    Returns:
        the methods of `jobs` in their order, then those that other comparisons finished in `out`.

    Raises:
        SettingError: `out` holds runs with other settings, or a method cannot convert the network.
    """
    several = len({job.target for job in jobs}) > 1
    for job in jobs:
        refuse_others(out, job, (*runs.OWN, "target") if several else runs.OWN)
    # Each network is built once before the first hour of training: a mistake in any method or glob shows now
    methods = {job.label: Method(job.label, job.counts()) for job in {job.label: job for job in jobs}.values()}
    for number, job in enumerate(jobs, 1):
        folder = out / folder_of(job.label, job.config.seed)
        known = runs.finished(folder)
        say(f"[{number}/{len(jobs)}] {job.label}, seed {job.config.seed}" + (": finished before" if known else ""))
        try:
            summary = runs.run(job, folder, progress=progress, **device)
        except OSError:  # of the folder: no run could be kept there
            raise
        except Exception as error:
            if isinstance(error, LeanconvError) and not isinstance(error, RunError):
                raise
            methods[job.label].failed[job.config.seed] = runs.failure(error)
            say(f"{job.label}, seed {job.config.seed} failed: {runs.failure(error)}")
        else:
            methods[job.label].done[job.config.seed] = summary
            methods[job.label].folders[job.config.seed] = folder
    return methods | _of_others(out, methods)


def refuse_others(out: Path, job: Job, may_differ: tuple[str, ...] = runs.OWN) -> None:
    """Raise SettingError when `out` holds a run that differs from `job` in more than `may_differ`."""
    wanted = job.identity()
    for folder in _run_folders(out):
        differs = runs.difference(runs.read_json(folder / runs.RUN_FILE), wanted, ignore=may_differ)
        if differs:
            raise SettingError(f"{folder} was run with other settings: {differs}; choose another folder with --out")


def _run_folders(out: Path) -> list[Path]:
    return sorted(
        path.parent for path in out.glob(f"*/seed*/{runs.RUN_FILE}") if FOLDER_OF_SEED.fullmatch(path.parent.name)
    )


def _of_others(out: Path, own: Mapping[str, Method]) -> dict[str, Method]:
    """Finished runs in `out` that this comparison did not ask for: other methods, and other seeds of its own."""
    others: dict[str, Method] = {}
    for folder in _run_folders(out):
        summary = runs.finished(folder)
        if summary is None:
            continue
        label, seed = summary["method"], summary["seed"]
        method = own.get(label) or others.setdefault(label, Method(label, summary["counts"]))
        if seed not in method.done:
            method.done[seed], method.folders[seed] = summary, folder
    return others


def measure(
    methods: Mapping[str, Method], input_size: tuple[int, int, int], options: Mapping[str, Any]
) -> dict[str, Latency]:
    """The inference latency of one network a method, interleaved; ratios are to dense, else to the first."""
    from leanconv.files.load import load
    from leanconv.timing.latency import measure_latency

    ready = sorted((m for m in methods.values() if m.done), key=lambda m: m.label != DENSE)
    if not ready:
        return {}
    say(f"measuring the latency of {len(ready)} networks")
    networks = {}
    for method in ready:
        try:
            networks[method.label] = load(method.folders[min(method.folders)])
        except LeanconvError as error:  # its accuracy stands without
            say(f"{method.label}: its latency is not measured: {error}")
    if not networks:
        return {}
    return {latency.name: latency for latency in measure_latency(networks, input_size, **options)}


def make_rows(methods: Mapping[str, Method], latencies: Mapping[str, Latency]) -> list[Row]:
    """One row a method; ratios are to dense, else to the first."""
    base = methods.get(DENSE) or next(iter(methods.values()))
    rows = []
    for label, method in methods.items():
        done = [method.done[seed] for seed in sorted(method.done)]
        row: Row = {
            "method": label,
            "n": len(done),
            "seeds": sorted(method.done),
            "ratios_to": base.label,
            **method.counts,
        }
        for name in ("params", "macs"):
            row[f"{name}_ratio"] = method.counts[name] / base.counts[name]
        row |= _scores("test_top1_pct", {run["seed"]: run["test"]["top1_pct"] for run in done})
        row |= _scores("test_top5_pct", {run["seed"]: run["test"]["top5_pct"] for run in done})
        row |= _scores("val_top1_pct", {run["seed"]: run["train"]["val_top1_pct"] for run in done})
        for name in ("train_seconds", "images_per_s"):
            row[name] = mean(run["train"][name] for run in done) if done else None
        row |= _latency(latencies.get(label))
        seeds = ", ".join(map(str, sorted(method.failed)))
        reasons = "; ".join(sorted(set(method.failed.values())))
        row["failed"] = f"seed {seeds}: {reasons}" if method.failed else None
        rows.append(row)
    return rows


def _scores(name: str, by_seed: Mapping[int, float | None]) -> Row:
    values = [value for value in by_seed.values() if value is not None]
    return {
        name: mean(values) if values else None,
        f"{name}_std": stdev(values) if len(values) > 1 else None,
        f"{name}_by_seed": {str(seed): value for seed, value in by_seed.items()} if values else {},
    }


def _latency(latency: Latency | None) -> Row:
    names = {"": "median_ms", "_q25": "q25_ms", "_q75": "q75_ms"}
    row: Row = {f"latency_ms{end}": getattr(latency, name, None) for end, name in names.items()}
    row |= {f"latency_ratio{end}": getattr(latency, f"ratio{end}", None) for end in names}
    more = {"latency_rounds": "rounds", "latency_ratio_low": "ratio_low", "latency_ratio_high": "ratio_high"}
    return row | {key: getattr(latency, name, None) for key, name in (more | {"latency_busy": "busy"}).items()}
