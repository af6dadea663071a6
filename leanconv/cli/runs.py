"""One training run from start to tested network, in a folder of its own, done once and continued where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanconv.cli.inspect import counts
from leanconv.cli.methods import label_of
from leanconv.cli.output import say
from leanconv.cli.target import check_fits, make_useful_plan, open_target, stem
from leanconv.core.atomic import remove_leftovers, write_json
from leanconv.core.errors import FileError, LeanconvError, RunError, SettingError
from leanconv.core.method import Method
from leanconv.core.processes import leads
from leanconv.core.reading import one_line, parse_json

if TYPE_CHECKING:
    from torch import nn

    from leanconv.conversion.apply import Init
    from leanconv.data import ImageData
    from leanconv.train import FitResult, TrainConfig

RUN_FILE = "run.json"
SUMMARY_FILE = "summary.json"
LOCK_FILE = ".lock"
CLASS_NAMES = "class_names"  # what a run's identity has since its classes are compared by name
FILES = (RUN_FILE, SUMMARY_FILE, "model.safetensors", "plan.json", "report.html")  # what a run writes here
OWN = ("method", "seed")  # what may differ between the runs of one comparison


@dataclass(frozen=True)
class Job:
    """Everything that decides what a run gives.

    Args:
        method: None trains the network as it is.
        name: what the run is called in tables; by default the text of its method.
        keep_stem: leave the first convolution dense whatever the globs say.
    """

    target: str
    method: Method | None
    data: ImageData
    config: TrainConfig
    where: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    init: Init = "fresh"
    pretrained: bool = False
    keep_stem: bool = False
    name: str | None = None

    @property
    def label(self) -> str:
        return self.name or label_of(self.method)

    @property
    def image_size(self) -> tuple[int, int]:
        asked = self.config.image_size
        size = (asked, asked) if isinstance(asked, int) else asked or self.data.image_size
        if size is None:
            raise SettingError(f"the images of {self.data.name} vary in size; give --image-size, 224 say")
        return size[0], size[1]

    @property
    def input_size(self) -> tuple[int, int, int]:
        return (self.data.channels, *self.image_size)

    def identity(self) -> dict[str, Any]:
        """The same as values that JSON knows: two runs with equal identities are the same run."""
        from leanconv.data import describe
        from leanconv.train.config import EXECUTION

        train = self.config.model_dump(mode="json", exclude=set(EXECUTION))
        seed = train.pop("seed")
        facts = describe(self.data)
        return {
            "target": self.target,
            "method": label_of(self.method),
            "seed": seed,
            "data": facts | {"classes": len(facts["classes"]), CLASS_NAMES: list(self.data.names)},
            "where": list(self.where),
            "exclude": list(self.exclude),
            "stem_kept_dense": self.keep_stem,
            "init": self.init,
            "pretrained": self.pretrained,
            "train": train,
        }

    def execution(self) -> dict[str, Any]:
        """How the run is carried out, which does not decide what it gives."""
        from leanconv.train.config import EXECUTION

        return {name: getattr(self.config, name) for name in EXECUTION}

    def build(self) -> nn.Module:
        """The network to train, from this job's seed: what is not converted starts alike under every method."""
        import torch

        from leanconv.conversion.apply import convert

        torch.manual_seed(self.config.seed)
        classes, channels = len(self.data.classes), self.data.channels
        model = open_target(self.target, pretrained=self.pretrained, num_classes=classes, in_chans=channels)
        check_fits(model, self.in_order_of(model).data, self.image_size)
        if self.method is None:
            return model
        exclude = (*self.exclude, stem(model)) if self.keep_stem else self.exclude
        plan = make_useful_plan(model, self.method, self.where, exclude, self.input_size)
        return convert(model, plan, self.init)

    def in_order_of(self, model: nn.Module) -> Job:
        """The same on data whose classes have the order of a network that was trained before."""
        from leanconv.core.task import get_task

        task = get_task(model)
        return self if task is None else dataclasses.replace(self, data=self.data.for_classes(task.classes))

    def counts(self) -> dict[str, Any]:
        """params, macs and weight_bytes of the network."""
        return counts(self.build(), self.input_size)


def difference(found: Any, wanted: Any, ignore: tuple[str, ...] = (), prefix: str = "") -> str | None:
    """The first setting in which two identities differ, as ``name is a there and b here``; None when they are equal."""
    for name in sorted({*found, *wanted} - {*ignore}):
        there, here = found.get(name), wanted.get(name)
        if name == CLASS_NAMES and there is None:  # a run of before
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            inner = difference(there, here, prefix=f"{prefix}{name}.")
            if inner:
                return inner
        elif there != here:
            return f"{prefix}{name} is {there!r} there and {here!r} here"
    return None


def run(job: Job, folder: Path, *, resume: bool = True, progress: bool = True, **device: Any) -> dict[str, Any]:
    """Train, test once and save; a finished run of the same identity is read back, an unfinished one continued.

    Returns:
        the run's summary: counts, what training gave, and the test scores; {} in all processes of a run but the first.

    Raises:
        SettingError: the folder holds another run, or an unfinished one and `resume` is not set.
        RunError: training failed.
    """
    from leanconv.train import fit
    from leanconv.train.loggers import check_loggers
    from leanconv.train.run import check_execution

    check_loggers(device.get("logger"))
    device["devices"] = check_execution(job.config, device.get("accelerator", "auto"), device.get("devices"))
    model = job.build()  # before the folder is there: a mistake leaves nothing behind
    identity = job.identity()
    job = job.in_order_of(model)

    numbers = counts(model, job.input_size)  # now, since what cannot be counted should not cost a training

    def work() -> dict[str, Any]:
        fitted = fit(model, job.data, job.config, folder, resume=True, progress=progress, **device)
        return _conclude(job, folder, model, fitted, numbers) if leads() else {}

    return once(folder, identity, work, resume=resume, scores="test")


def once(
    folder: Path, identity: dict[str, Any], work: Callable[[], dict[str, Any]], *, resume: bool, scores: str
) -> dict[str, Any]:
    """The summary of the run in `folder`: read back where it is finished, else what `work`, alone in there, returns.

    Args:
        identity: what decides the run's result; another one in the folder is refused.
        scores: the entry of a finished run's summary that its last look at the data gave.
    """
    with _alone(folder):
        if leads():
            remove_leftovers(folder, FILES)
            _check_folder(folder, identity)
        summary = finished(folder, scores)
        if summary is not None:
            return summary
        if leads():
            if (folder / RUN_FILE).exists() and not resume:
                raise SettingError(f"{folder} holds this run, unfinished; add --resume to continue it")
            write_json(folder / RUN_FILE, identity)
        return work()


def _check_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Raise SettingError when `folder` holds another run, or something else."""
    if (folder / RUN_FILE).exists():
        differs = difference(read_json(folder / RUN_FILE), identity)
        if differs:
            raise SettingError(f"{folder} holds another run: {differs}; choose another folder with --out")
    elif any(path.name != LOCK_FILE for path in folder.iterdir()):
        raise SettingError(f"{folder} holds something else; choose another folder with --out")


def _conclude(job: Job, folder: Path, model: nn.Module, fitted: FitResult, numbers: dict[str, Any]) -> dict[str, Any]:
    """Save the network, test it, and write the run's summary: only now is the test part looked at.

    Raises:
        RunError: one of these failed; the trained weights are kept.
    """
    try:
        return _concluded(job, folder, model, fitted, numbers)
    except Exception as error:
        kept = f"the trained weights are in {folder}, and the same command with --resume tries again"
        raise RunError(f"trained, and then failed: {failure(error)}; {kept}") from error


def _concluded(job: Job, folder: Path, model: nn.Module, fitted: FitResult, numbers: dict[str, Any]) -> dict[str, Any]:
    from leanconv.core.task import Task, set_task
    from leanconv.files.save import save
    from leanconv.train import evaluate

    model.cpu().eval()
    size = job.input_size[1:]
    set_task(model, Task(job.data.mean, job.data.std, size, job.data.names))
    save(model, folder, allow_nonfinite=True)  # a run that diverged ends with a warning and its scores
    scores = evaluate(
        model,
        job.data.test,
        mean=job.data.mean,
        std=job.data.std,
        ten_crop=job.config.ten_crop,
        precision=job.config.precision,
        channels_last=job.config.channels_last,
        image_size=job.config.image_size,
    )
    if not math.isfinite(scores.loss):
        raise RunError(f"the loss on the test part is {scores.loss}; lower lr, and train again in another folder")
    trained = dataclasses.asdict(fitted)
    trained.pop("history", None)
    summary = {
        "status": "finished",
        "method": job.label,
        "seed": job.config.seed,
        "counts": numbers,
        "train": trained,
        "test": dataclasses.asdict(scores),
    }
    if job.data.problems.counts:
        summary["problems"] = job.data.problems.to_json()
    write_json(folder / SUMMARY_FILE, summary)
    return summary


def finished(folder: Path, scores: str = "test") -> dict[str, Any] | None:
    """The summary of the run in `folder`; None while it is not finished."""
    path = folder / SUMMARY_FILE
    summary = read_json(path) if path.exists() else {}
    return summary if summary.get("status") == "finished" and summary.get(scores) else None


def layers(label: str, folders: Sequence[Path]) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """The convolutions of the lean networks in these folders, as tables of a page; none for a dense one or a failed run."""
    from leanconv.cli.inspect import HEADS, layer_lines
    from leanconv.files.load import load
    from leanconv.files.save import MODEL_FILE

    found = []
    for folder in folders:
        try:
            lines = layer_lines(load(folder)) if (folder / MODEL_FILE).exists() else []
        except LeanconvError as error:  # a page without them is better than none
            say(f"{label}: its layers are not shown: {error}")
            continue
        found += [(label, HEADS, lines)] if lines else []
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    """The metrics of each epoch of the run in `folder`."""
    path = folder / "metrics.jsonl"
    epochs = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):  # the half line of a killed process
            epochs.append(parse_json(line))
    return epochs


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that leanconv wrote."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FileError(f"{path} is not JSON ({one_line(str(error))}); remove its folder and run again") from error
    if not isinstance(value, dict):
        raise FileError(f"{path} holds no JSON object; remove its folder and run again")
    return value


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder, waiting while another process works in it."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    if not leads():
        yield
        return
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{folder}: another process is at work on this run; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def failure(error: BaseException) -> str:
    """Why a run failed, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, LeanconvError) else f"{type(error).__name__}: {text}"[:300]
