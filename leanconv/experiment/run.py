"""One training run in its own folder: train, test and save once; an interrupted run continues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from leanconv.core.errors import RunError
from leanconv.core.machine import precision_name
from leanconv.core.processes import leads
from leanconv.experiment.conclude import conclude
from leanconv.experiment.events import Progress, Waiting, teller
from leanconv.experiment.job import Job
from leanconv.experiment.ready import Ready
from leanconv.experiment.report import HEADS, lines, run_page
from leanconv.files.load import load
from leanconv.report.result import Result
from leanconv.report.tables import Row
from leanconv.report.text_table import TextTable
from leanconv.train.once import history, once
from leanconv.train.run import fit
from leanconv.train.scoring import Scores

if TYPE_CHECKING:
    from leanconv.report.page import Page


@dataclass
class Run(Result):
    """The result of a run; a notebook shows it as a table.

    Args:
        job: the definition of the run.
        summary: the values of summary.json: counts, training results, and the test scores.
        folder: the folder of the run; None if it was temporary.
        history: one record for each epoch, as in metrics.jsonl.
        trained: the trained network, if it is in memory.
    """

    job: Job
    summary: dict[str, Any]
    folder: Path | None
    history: list[dict[str, Any]]
    trained: nn.Module | None = field(default=None, repr=False)

    @property
    def network(self) -> nn.Module:
        """The trained network, on the CPU in eval mode. If the run was finished before, it is loaded from the folder."""
        if self.trained is None:
            assert self.folder is not None
            own = self.job.network
            self.trained = load(self.folder) if isinstance(own, str) else load(self.folder, self.job.base())
        return self.trained

    @property
    def scores(self) -> Scores:
        """The scores on the test part."""
        return Scores(**self.summary["test"])

    @property
    def counts(self) -> dict[str, Any]:
        """params, macs and weight_bytes, and the operations that the MACs leave out, if there are any."""
        return dict(self.summary["counts"])

    @property
    def rows(self) -> Sequence[Row]:
        named = {"method": self.summary["method"], "seed": self.summary["seed"]}
        return [{**named, **self.counts, **self.summary["train"], **_prefixed(self.summary["test"])}]

    def table(self) -> TextTable:
        return TextTable(HEADS, lines(self.summary), title=f"{self.job.target}, {self.summary['method']}")

    def __str__(self) -> str:
        test, took = self.summary["test"], self.summary["train"]["train_seconds"]
        return (
            f"{self.summary['method']}: test top-1 {test['top1_pct']:.2f} %, top-5 {test['top5_pct']:.2f} % on "
            f"{test['n']:,} images in {precision_name(self.job.config.precision)}; {self.counts['params']:,} parameters; "
            f"trained in {took:.0f} s"
        )

    def page(self, command: str = "") -> Page:
        """The run as an HTML page.

        Args:
            command: the command line that the page shows.
        """
        return run_page(self.job, self.summary, self.history, self.network, command)

    def to_json(self) -> dict[str, Any]:
        """The values of summary.json."""
        return self.summary


def _prefixed(scores: dict[str, Any]) -> dict[str, Any]:
    return {f"test_{name}": value for name, value in scores.items()}


def run(
    job: Job, ready: Ready | None, folder: Path, *, resume: bool = True, progress: Progress = True, **options: Any
) -> Run:
    """Train, test once and save. A finished run with the same identity is read, and an unfinished run continues.

    Args:
        job: the definition of the run.
        ready: the result of `prepare` for this job; None if the folder has the finished run.
        folder: the folder of the run.
        resume: whether an unfinished run may continue.
        progress: as in `leanconv.fit`.
        options: options of `leanconv.train.fit`: accelerator, devices, callbacks, logger, strategy.

    Returns:
        the result; in all processes except the first, its summary is {}.

    Raises:
        SettingError: the folder contains another run, or an unfinished run and `resume` is not set.
        RunError: training failed.
    """
    tell = teller(progress)
    trained: list[nn.Module] = []

    def work() -> dict[str, Any]:
        if ready is None:
            raise RunError(f"the finished run in {folder} was removed; start the run again")
        fitted = fit(
            ready.network, ready.data, ready.config, folder,
            resume=True, request=ready.request, teacher=ready.teacher, **_shown(ready, progress, options),
        )  # fmt: skip
        trained.append(ready.network)
        return conclude(ready, folder, fitted) if leads() else {}

    summary = once(folder, job.identity(), work, resume=resume, scores="test", waiting=lambda: tell(Waiting(folder)))
    return Run(job, summary, folder, history(folder), *trained)


def _shown(ready: Ready, progress: Progress, options: dict[str, Any]) -> dict[str, Any]:
    """`options`, extended by the display of epochs: a progress bar, nothing, or events."""
    if not callable(progress):
        return options | {"progress": progress}
    from leanconv.experiment.epochs import Epochs

    told = Epochs(ready.label, ready.config.seed, teller(progress))
    return options | {"progress": False, "callbacks": (*options.get("callbacks", ()), told)}
