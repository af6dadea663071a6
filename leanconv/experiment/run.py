"""One training run from start to tested network, in a folder of its own, done once and continued where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from leanconv.core.errors import RunError
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
    """What a run gave; shown as a table in a notebook.

    Args:
        summary: as in summary.json: counts, what training gave, and the test scores.
        folder: where its files are; None where they were temporary.
        history: one record an epoch, as in metrics.jsonl.
    """

    job: Job
    summary: dict[str, Any]
    folder: Path | None
    history: list[dict[str, Any]]
    trained: nn.Module | None = field(default=None, repr=False)

    @property
    def network(self) -> nn.Module:
        """The trained network, on the CPU in eval mode; read from the folder where the run was finished before."""
        if self.trained is None:
            assert self.folder is not None
            own = self.job.network
            self.trained = load(self.folder) if isinstance(own, str) else load(self.folder, self.job.base())
        return self.trained

    @property
    def scores(self) -> Scores:
        """Of the test part."""
        return Scores(**self.summary["test"])

    @property
    def counts(self) -> dict[str, Any]:
        """params, macs and weight_bytes, and what the MACs leave out, if anything."""
        return dict(self.summary["counts"])

    @property
    def rows(self) -> Sequence[Row]:
        named = {"method": self.summary["method"], "seed": self.summary["seed"]}
        return [{**named, **self.counts, **self.summary["train"], **_prefixed(self.summary["test"])}]

    def table(self) -> TextTable:
        return TextTable(HEADS, lines(self.summary), title=f"{self.job.target}, {self.job.label}")

    def __str__(self) -> str:
        test, took = self.summary["test"], self.summary["train"]["train_seconds"]
        return (
            f"{self.summary['method']}: test top-1 {test['top1_pct']:.2f} %, top-5 {test['top5_pct']:.2f} % on "
            f"{test['n']:,} images; {self.counts['params']:,} parameters; trained in {took:.0f} s"
        )

    def page(self, command: str = "") -> Page:
        """Everything of the run as a page.

        Args:
            command: how it was started, to be shown on the page.
        """
        return run_page(self.job, self.summary, self.history, self.network, command)

    def to_json(self) -> dict[str, Any]:
        """As in summary.json."""
        return self.summary


def _prefixed(scores: dict[str, Any]) -> dict[str, Any]:
    return {f"test_{name}": value for name, value in scores.items()}


def run(
    job: Job, ready: Ready | None, folder: Path, *, resume: bool = True, progress: Progress = True, **options: Any
) -> Run:
    """Train, test once and save; a finished run of the same identity is read back, an unfinished one continued.

    Args:
        ready: what `prepare` made of this job; None where the folder holds the finished run.
        options: of `leanconv.train.fit`: accelerator, devices, callbacks, logger, strategy.

    Returns:
        what the run gave; its summary is {} in all processes of a run but the first.

    Raises:
        SettingError: the folder holds another run, or an unfinished one and `resume` is not set.
        RunError: training failed.
    """
    tell = teller(progress)
    trained: list[nn.Module] = []

    def work() -> dict[str, Any]:
        if ready is None:
            raise RunError(f"the finished run in {folder} is gone; start it again")
        fitted = fit(
            ready.network, ready.data, ready.config, folder,
            resume=True, request=ready.request, **_shown(ready, progress, options),
        )  # fmt: skip
        trained.append(ready.network)
        return conclude(ready, folder, fitted) if leads() else {}

    summary = once(folder, job.identity(), work, resume=resume, scores="test", waiting=lambda: tell(Waiting(folder)))
    return Run(job, summary, folder, history(folder), *trained)


def _shown(ready: Ready, progress: Progress, options: dict[str, Any]) -> dict[str, Any]:
    """`options` with how the run shows its epochs: a bar, nothing, or events."""
    if not callable(progress):
        return options | {"progress": progress}
    from leanconv.experiment.epochs import Epochs

    told = Epochs(ready.label, ready.config.seed, teller(progress))
    return options | {"progress": False, "callbacks": (*options.get("callbacks", ()), told)}
