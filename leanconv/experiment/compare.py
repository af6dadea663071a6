"""The main job: networks and methods trained alike, tested, measured together and shown side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from leanconv.core.errors import SettingError
from leanconv.core.machine import device_of
from leanconv.core.method import Method
from leanconv.core.processes import leads
from leanconv.data import ImageData
from leanconv.data.own import DataLike, as_images
from leanconv.experiment.events import Progress, teller
from leanconv.experiment.grid import Methods, Networks, check_several, jobs_of, methods_of
from leanconv.experiment.job import Job
from leanconv.experiment.result import Comparison, compared
from leanconv.experiment.series import slug, train_all
from leanconv.experiment.settings import settings_for
from leanconv.train.config import TrainConfig
from leanconv.train.loggers import check_loggers

if TYPE_CHECKING:
    from leanconv.conversion.apply import Init
    from leanconv.conversion.plan import Include

LATENCY_SECONDS = 6.0


def compare(
    models: Networks,
    data: DataLike | Methods = "digits",
    config: TrainConfig | str | Path | None = None,
    out: str | Path | None = None,
    *,
    methods: Methods | None = None,
    seeds: int = 1,
    where: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include: Include | None = None,
    init: Init = "fresh",
    pretrained: bool = False,
    keep_stem: bool = True,
    test_split: float | None = None,
    latency: bool = True,
    latency_batch: int = 1,
    device: str = "auto",
    progress: Progress = True,
    command: str = "leanconv.compare(...)",
    **settings: Any,
) -> Comparison:
    """Train networks alike from the same seeds, test each once, measure their latency, and show all side by side.

    Args:
        models: one network or several: names, folders, a mapping of labels to networks, or functions that make one. Each run
            trains a copy; a function is called for each run, after seeding, so that its weights differ from seed to seed.
        data: as in `leanconv.fit`. A list of methods here stands for ``methods=``, on the digits.
        config, settings: as in `leanconv.fit`; callbacks (copied for each run), logger and strategy are too.
        out: folder of the results: a folder for each run, summary.json, report.md and report.html. Finished runs there are
            kept and unfinished ones continued; another comparison of the same settings may share it. None keeps nothing.
        methods: how each network is converted: texts such as "tied_block(blocks=2)", `Method` objects, None or "dense" for the
            network as it is; or a mapping of labels to them.
        seeds: runs of each method, from config's seed on.
        where, exclude, include, init: of `leanconv.plan` and `leanconv.convert`.
        keep_stem: the first convolution of a network stays dense.
        latency, latency_batch: whether to measure, and with how many images a call.
        device: "auto", "cpu" or "cuda": where to train and to measure.
        progress: True says how it goes on standard error; a function is called with each `leanconv.experiment.Event`.
        command: how it was started, to be noted in the report.

    Raises:
        SettingError: nothing to compare, an unknown network, method or setting, or `out` holds runs with other settings.
        DataError: the images cannot be used.

    >>> import leanconv as lc
    >>> found = lc.compare("resnet8", ["dense", "tied_block(blocks=2)"], epochs=1, threads=1, latency=False, progress=False)
    >>> [row["method"] for row in found.rows]
    ['dense', 'tied_block(blocks=2)']
    >>> found.rows[1]["params_ratio"] < 0.5
    True
    """
    if methods is None and _are_methods(data):
        data, methods = "digits", cast(Methods, data)
    check_several(models, methods)
    images = as_images(cast(DataLike, data), test_split=test_split)
    options = {name: settings.pop(name) for name in ("callbacks", "logger", "strategy", "devices") if name in settings}
    if any(not isinstance(logger, str) for logger in check_loggers(options.get("logger"))):
        raise SettingError(
            "a Logger object would mix the runs of a comparison; give its name: tensorboard, csv or wandb"
        )
    chosen = settings_for(config, images, settings)
    shared: dict[str, Any] = {
        "where": tuple(where), "exclude": tuple(exclude), "include": include, "init": init, "pretrained": pretrained,
    }  # fmt: skip
    jobs = jobs_of(models, methods_of(methods), Job("", None, images, chosen, **shared, keep_stem=keep_stem), seeds)
    measured = {
        "batch": latency_batch, "device": device_of(device), "channels_last": chosen.channels_last,
        "threads": chosen.threads, "seconds": LATENCY_SECONDS,
    }  # fmt: skip
    with _folder(out) as folder:
        trained = train_all(jobs, folder, progress=progress, accelerator=device, **options)
        if not leads():  # which has trained with the first process, and measures and shows nothing
            return Comparison({"rows": []}, None, {}, {})
        found = compared(jobs, trained, measured if latency else None, command, teller(progress))
        if out is not None:
            found.folder = folder
            found.write(folder)
        return found


def default_folder(targets: Sequence[str], data: ImageData) -> Path:
    """Where a comparison of networks by name is kept."""
    return Path("runs") / f"{'-'.join(map(slug, targets))}-{data.name}"


def _are_methods(value: Any) -> bool:
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return len(entries) > 0 and all(entry is None or isinstance(entry, str | Method) for entry in entries)


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
