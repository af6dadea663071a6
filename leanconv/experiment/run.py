"""One training run from start to tested network, in a folder of its own, done once and continued where it stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from leanconv.core.atomic import write_json
from leanconv.core.count import count
from leanconv.core.errors import RunError
from leanconv.core.processes import leads
from leanconv.core.task import Task, set_task
from leanconv.experiment.events import Progress, Waiting, teller
from leanconv.experiment.job import Job
from leanconv.files.load import load
from leanconv.files.save import save
from leanconv.report.result import Result, TextTable
from leanconv.report.tables import Row
from leanconv.train.evaluation import evaluate
from leanconv.train.once import SUMMARY_FILE, failure, finished, history, once
from leanconv.train.run import FitResult, check_execution, checked_engine, fit
from leanconv.train.scoring import Scores

if TYPE_CHECKING:
    from leanconv.report.page import Page


@dataclass(frozen=True)
class Built:
    """A network that was built for a job, and its figures: params, macs and weight_bytes."""

    network: nn.Module
    counts: dict[str, Any]


def build(job: Job) -> Built:
    """Build and count the network of `job`; what cannot be counted should not cost a training.

    Raises:
        SettingError: the network, the method and the images do not go together.
    """
    network = job.build()
    return Built(network, count(network, job.input_size).to_json())


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
        from leanconv.experiment.report import HEADS, lines

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
        from leanconv.experiment.report import run_page

        return run_page(self, command)

    def to_json(self) -> dict[str, Any]:
        """As in summary.json."""
        return self.summary


def _prefixed(scores: dict[str, Any]) -> dict[str, Any]:
    return {f"test_{name}": value for name, value in scores.items()}


def run(
    job: Job,
    folder: Path,
    *,
    resume: bool = True,
    progress: Progress = True,
    built: Built | None = None,
    **options: Any,
) -> Run:
    """Train, test once and save; a finished run of the same identity is read back, an unfinished one continued.

    Args:
        built: what `build` made of this job, where that was done before.
        options: of `leanconv.train.fit`: accelerator, devices, callbacks, logger, strategy.

    Returns:
        what the run gave; its summary is {} in all processes of a run but the first.

    Raises:
        SettingError: the folder holds another run, or an unfinished one and `resume` is not set.
        RunError: training failed.
    """
    accelerator = options.setdefault("accelerator", "auto")
    options["devices"] = check_execution(job.config, accelerator, options.get("devices"))
    checked_engine(options.get("callbacks", ()), options.get("logger"), options.get("strategy"))
    identity = job.identity()
    if built is None and finished(folder) is None:
        built = build(job)  # before the folder is there: a mistake leaves nothing behind
    trained: list[nn.Module] = []

    def work() -> dict[str, Any]:
        own = built or build(job)
        options["request"] = job.request(own.network, accelerator)
        fitted = fit(
            own.network,
            job.in_order_of(own.network).data,
            job.config,
            folder,
            resume=True,
            **_shown(job, progress, options),
        )
        trained.append(own.network)
        return _conclude(job, folder, own, fitted) if leads() else {}

    tell = teller(progress)
    summary = once(folder, identity, work, resume=resume, scores="test", waiting=lambda: tell(Waiting(folder)))
    return Run(job, summary, folder, history(folder), *trained)


def _shown(job: Job, progress: Progress, options: dict[str, Any]) -> dict[str, Any]:
    """`options` with how the run shows its epochs: a bar, nothing, or events."""
    if not callable(progress):
        return options | {"progress": progress}
    from leanconv.experiment.epochs import Epochs

    told = Epochs(job.label, job.config.seed, teller(progress))
    return options | {"progress": False, "callbacks": (*options.get("callbacks", ()), told)}


def _conclude(job: Job, folder: Path, built: Built, fitted: FitResult) -> dict[str, Any]:
    """Save the network, test it, and write the run's summary: only now is the test part looked at.

    Raises:
        RunError: one of these failed; the trained weights are kept.
    """
    try:
        summary = _tested(job.in_order_of(built.network), folder, built, fitted)
        write_json(folder / SUMMARY_FILE, summary)
    except Exception as error:
        kept = f"the trained weights are in {folder}, and the same command with --resume (resume=True) tries again"
        raise RunError(f"trained, and then failed: {failure(error)}; {kept}") from error
    return summary


def _tested(job: Job, folder: Path, built: Built, fitted: FitResult) -> dict[str, Any]:
    network, config, data = built.network.cpu().eval(), job.config, job.data
    network.zero_grad(set_to_none=True)
    if not data.prepared:
        set_task(network, Task(data.mean, data.std, job.image_size, data.names))
    save(network, folder, allow_nonfinite=True)  # a run that diverged ends with a warning and its scores
    scores = evaluate(
        network, data.test, mean=data.mean, std=data.std, ten_crop=config.ten_crop, precision=config.precision,
        channels_last=config.channels_last, image_size=config.image_size,
    )  # fmt: skip
    if not math.isfinite(scores.loss):
        raise RunError(f"the loss on the test part is {scores.loss}; lower lr, and train again in another folder")
    return {
        "status": "finished",
        "method": job.label,
        "seed": config.seed,
        "counts": built.counts,
        "train": {name: value for name, value in asdict(fitted).items() if name != "history"},
        "test": asdict(scores),
    } | ({"problems": data.problems.to_json()} if data.problems.counts else {})
