"""Several runs in one folder: each run is done once, and a failed run does not stop the others."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leanconv.core.errors import LeanconvError, RunError, SettingError
from leanconv.experiment.elsewhere import train_elsewhere
from leanconv.experiment.events import Progress, RunFailed, RunStarted, Tell, teller
from leanconv.experiment.job import Job
from leanconv.experiment.ready import Ready, check_options, prepare
from leanconv.experiment.rows import MethodRuns
from leanconv.experiment.run import Run, run
from leanconv.experiment.where import Where
from leanconv.train.once import BUILT, CODE, RUN_FILE, difference, failure, finished, history, read_json

FOLDER_OF_SEED = re.compile(r"seed\d+")
NETWORK = ("target", "network", BUILT, CODE)  # the keys that say which network a run trained
SEED = ("seed",)  # the key that may differ between the runs of one row
OF_METHODS = (*SEED, "method")  # the keys that may differ between the rows of one comparison
OF_NETWORKS = (*OF_METHODS, *NETWORK)  # the keys that may differ if several networks are compared


def folder_of(label: str, seed: int) -> Path:
    """The folder of a run, relative to the folder of its comparison."""
    return Path(slug(label)) / f"seed{seed}"


def slug(label: str) -> str:
    """`label` as a file name."""
    return re.sub(r"[^A-Za-z0-9._=]+", "-", re.sub(r"['\"]", "", label)).strip("-")


def train_all(
    jobs: Sequence[Job], out: Path, *, progress: Progress = True, on: Where | None = None, **options: Any
) -> dict[str, MethodRuns]:
    """Train every job that is not finished yet; a failed job does not stop the others.

    Each network is built once. The first network of each method is built before any training, so that a mistake in a method
    or a glob is found at once.

    Args:
        jobs: the runs.
        out: the folder of the comparison.
        progress: as in `leanconv.fit`.
        on: where the runs are trained, as independent jobs; None trains them here, one after the other.
        options: options of `leanconv.train.fit`: accelerator, devices, callbacks, logger, strategy.

    Returns:
        the runs by method: the methods of `jobs` in their order, then the methods that other comparisons finished in `out`.

    Raises:
        SettingError: `out` contains runs with other settings, or a method cannot convert the network.
    """
    tell = teller(progress)
    refuse_others(out, jobs)
    check_options(jobs[0], options)
    built: dict[str, Ready] = {}
    methods = {job.label: MethodRuns(job.label, {}) for job in jobs}
    folders = [out / folder_of(job.label, job.config.seed) for job in jobs]
    summaries = [finished(folder) for folder in folders]
    for job, known in zip(jobs, summaries, strict=True):
        runs = methods[job.label]
        if known is None and job.label not in built:
            built[job.label] = prepare(job, options)
        runs.counts = runs.counts or (known["counts"] if known else built[job.label].counts)
    failed: dict[Path, str] = {}
    if on is not None:
        built.clear()
        left = {folder: job for folder, job, known in zip(folders, jobs, summaries, strict=True) if known is None}
        failed = train_elsewhere(left, out, on, options)
        summaries = [finished(folder) for folder in folders]
    for number, (job, known) in enumerate(zip(jobs, summaries, strict=True), 1):
        reason = failed.get(folders[number - 1])
        if on is not None and known is None:
            reason = reason or "it ended without a result"
            methods[job.label].failed[job.config.seed] = reason
            tell(RunFailed(job.label, job.config.seed, reason))
            continue
        # the first unfinished job of a method is the job for which its network was built
        first = None if known else built.pop(job.label, None)
        _train(job, out, methods[job.label], tell, (number, len(jobs)), first, progress=progress, **options)
    return methods | _of_others(out, methods, jobs[0])


def _train(
    job: Job,
    out: Path,
    runs: MethodRuns,
    tell: Tell,
    place: tuple[int, int],
    built: Ready | None,
    *,
    progress: Progress,
    **options: Any,
) -> None:
    """Train one job, and add the result to `runs` as done or failed."""
    seed = job.config.seed
    folder = out / folder_of(job.label, seed)
    known = finished(folder) is not None
    tell(RunStarted(job.label, seed, *place, finished_before=known))
    try:
        own = options | {"callbacks": copy.deepcopy(options.get("callbacks", ()))}
        ready = None if known else built or prepare(job, own)
        done = run(job, ready, folder, progress=progress, **own)
    except OSError:  # an error of the folder: no run could be written
        raise
    except Exception as error:
        if isinstance(error, LeanconvError) and not isinstance(error, RunError):
            raise
        runs.failed[seed] = failure(error)
        tell(RunFailed(job.label, seed, runs.failed[seed]))
    else:
        if runs.done:
            done.trained = None  # one network of each method is shown and measured; the others are released
        runs.done[seed] = done


def refuse_others(out: Path, jobs: Sequence[Job]) -> None:
    """Raise SettingError if `out` contains a run that does not belong into one table with `jobs`.

    The runs of one label come into one row, so only their seeds may differ. Runs of other labels may also have another method,
    and another network if `jobs` have several.
    """
    folders = _run_folders(out)
    own = {slug(job.label): job for job in jobs} if folders else {}  # 200 runs of two methods are two rows
    asked = [job.identity() for job in own.values()]
    several = len({json.dumps([one.get(name) for name in NETWORK]) for one in asked}) > 1
    rows = dict(zip(own, asked, strict=True))
    for folder in folders:
        found, row = read_json(folder / RUN_FILE), slug(_label(folder))
        wanted, may_differ = ([rows[row]], SEED) if row in rows else (asked, OF_NETWORKS if several else OF_METHODS)
        differs = next(filter(None, (difference(found, one, ignore=may_differ) for one in wanted)), None)
        if differs:
            raise SettingError(
                f"{folder} was run with other settings: {differs}; choose another folder with --out (out=)"
            )
        rows.setdefault(row, found)


def _label(folder: Path) -> str:
    """The label of the run in `folder`, as far as its files say it."""
    summary = finished(folder)
    return folder.parent.name if summary is None else str(summary["method"])


def _run_folders(out: Path) -> list[Path]:
    return sorted(path.parent for path in out.glob(f"*/seed*/{RUN_FILE}") if FOLDER_OF_SEED.fullmatch(path.parent.name))


def _of_others(out: Path, own: Mapping[str, MethodRuns], job: Job) -> dict[str, MethodRuns]:
    """Finished runs in `out` that are not part of this comparison: other methods, and other seeds of its methods.

    `refuse_others` has seen that the runs of a label differ in the seed alone.
    """
    others: dict[str, MethodRuns] = {}
    for folder in _run_folders(out):
        summary = finished(folder)
        if summary is None:
            continue
        label, seed = summary["method"], summary["seed"]
        runs = own.get(label) or others.setdefault(label, MethodRuns(label, summary["counts"]))
        if seed not in runs.done:
            runs.done[seed] = Run(job, summary, folder, history(folder))
    return others
