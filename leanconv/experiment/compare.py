"""Compare networks and methods: train with the same settings, test, measure together, and show one table."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from leanconv.conversion.plan import globs_only
from leanconv.core.errors import SettingError
from leanconv.core.machine import device_of
from leanconv.core.method import NamedSettings
from leanconv.core.processes import leads
from leanconv.data import ImageData
from leanconv.data.own import DataLike, as_images
from leanconv.experiment.events import Progress, teller
from leanconv.experiment.grid import Methods, Networks, check_several, jobs_of, methods_of, networks_of
from leanconv.experiment.job import Job
from leanconv.experiment.result import Comparison, compared
from leanconv.experiment.series import slug, train_all
from leanconv.experiment.settings import settings_for
from leanconv.experiment.where import Where, where_of
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
    where: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    include: Include | None = None,
    align: int | None = None,
    init: Init = "fresh",
    pretrained: bool = False,
    keep_stem: bool = True,
    test_split: float | None = None,
    latency: bool = True,
    latency_batch: int = 1,
    device: str = "auto",
    on: str | Where | None = None,
    progress: Progress = True,
    command: str = "leanconv.compare(...)",
    **settings: Any,
) -> Comparison:
    """Train networks with the same settings and seeds, test each network once, measure latency, and show one table.

    Args:
        models: one network or several: names, folders, networks, functions that return a network, or a mapping of labels to
            these. Each run trains a copy. A function is called for each run, after seeding, so its weights differ by seed.
        data: as in `leanconv.fit`. A list of methods in this place means ``methods=``, and the data is digits.
        config, settings: as in `leanconv.fit`, with callbacks (copied for each run), logger and strategy.
        out: folder of the results: a folder for each run, summary.json, report.md and report.html. Finished runs in
            this folder are read, and unfinished runs continue. Comparisons with the same settings may share a folder, where
            a label stands for one method on one network. None keeps no files.
        methods: how each network is converted: texts such as "tied_block(blocks=2)", `Method` objects, None or "dense" for the
            unconverted network; or a mapping of labels to methods. Controls take the place of a method: "narrower(macs=0.5)",
            "shallower(macs=0.5)", "pruned(macs=0.5)"; see `leanconv.experiment.controls`.
        seeds: the number of runs of each method; their seeds begin with the seed of the settings.
        where, exclude, include, align, init: as in `leanconv.plan` and `leanconv.convert`.
        pretrained: start from published weights, for networks by name.
        test_split: as in `leanconv.fit`.
        keep_stem: the first convolution of a network stays dense.
        latency, latency_batch: whether to measure the latency, and the number of images in each call.
        device: "auto", "cpu" or "cuda": where to train and to measure.
        on: where the runs are trained: "ray" or "slurm(partition='gpu')" make each run a job of a cluster; see
            `leanconv.experiment.where`. `out` must then be a folder that all machines see. None trains them here, one after
            the other.
        progress: True shows the progress on standard error; a function is called with each `leanconv.experiment.Event`.
        command: the command line that the report shows.

    Raises:
        SettingError: there is nothing to compare; a network, method or setting is unknown; or `out` contains runs with other
            settings.
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
    place = where_of(on)
    if place is not None and out is None:
        raise SettingError("on= needs out=: a folder that all machines see")
    images = as_images(cast(DataLike, data), test_split=test_split, networks=networks_of(models))
    options = {name: settings.pop(name) for name in ("callbacks", "logger", "strategy", "devices") if name in settings}
    if any(not isinstance(logger, str) for logger in check_loggers(options.get("logger"))):
        raise SettingError(
            "a Logger object would mix the runs of a comparison; give its name: tensorboard, csv or wandb"
        )
    chosen = settings_for(config, images, settings, device)
    shared: dict[str, Any] = {
        "where": globs_only(where), "exclude": globs_only(exclude, "exclude"), "include": include, "align": align, "init": init,
        "pretrained": pretrained,
    }  # fmt: skip
    jobs = jobs_of(models, methods_of(methods), Job("", None, images, chosen, **shared, keep_stem=keep_stem), seeds)
    measured = {
        "batch": latency_batch, "device": device_of(device), "channels_last": chosen.channels_last,
        "threads": chosen.threads, "seconds": LATENCY_SECONDS,
    }  # fmt: skip
    with _folder(out) as folder:
        trained = train_all(jobs, folder, progress=progress, accelerator=device, on=place, **options)
        if not leads():  # this process has trained with the first process, which alone measures and shows
            return Comparison({"rows": []}, None, {}, {})
        found = compared(jobs, trained, measured if latency else None, command, teller(progress))
        if out is not None:
            found.folder = folder
            found.write(folder)
        return found


def default_folder(targets: Sequence[str], data: ImageData) -> Path:
    """The default folder of a comparison of networks by name."""
    return Path("runs") / f"{'-'.join(map(slug, targets))}-{data.name}"


def _are_methods(value: Any) -> bool:
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return len(entries) > 0 and all(entry is None or isinstance(entry, str | NamedSettings) for entry in entries)


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    if out is not None:
        yield Path(out).expanduser()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
