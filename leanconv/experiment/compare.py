"""The main job: networks and methods trained alike, tested, measured together and shown side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from leanconv.conversion.methods import DENSE, label_of, parse_methods
from leanconv.core.atomic import write_json
from leanconv.core.errors import LeanconvError, SettingError
from leanconv.core.machine import device_of, provenance
from leanconv.core.method import Method
from leanconv.core.processes import leads
from leanconv.data import ImageData
from leanconv.data.own import DataLike, as_images
from leanconv.experiment.events import LeftOut, Measuring, Progress, Tell, teller
from leanconv.experiment.job import Job, Network
from leanconv.experiment.rows import MethodRuns, make_rows
from leanconv.experiment.series import slug, train_all
from leanconv.experiment.settings import settings_for
from leanconv.report.result import Result, TextTable
from leanconv.report.tables import Row
from leanconv.timing.latency import measure_latency
from leanconv.train.config import TrainConfig
from leanconv.train.loggers import check_loggers
from leanconv.train.once import CLASS_NAMES, SUMMARY_FILE

if TYPE_CHECKING:
    from leanconv.conversion.apply import Init
    from leanconv.conversion.plan import Include
    from leanconv.report.page import Details, Page
    from leanconv.timing.latency import Latency

LATENCY_SECONDS = 6.0
Methods = str | Sequence[str | Method | None] | Mapping[str, Method | None]
Networks = Network | Sequence[str] | Mapping[str, Network]


@dataclass
class Comparison(Result):
    """Networks side by side; shown as a table in a notebook.

    Args:
        summary: as in summary.json: settings, machine, versions, and one row a method.
        folder: where the runs are; None where they were temporary.
        networks: the trained network of each row, of its lowest seed.
        histories: the metrics of each epoch, by row, one sequence a seed.
        details: the layers of the lean networks, as tables of the page.
    """

    summary: dict[str, Any]
    folder: Path | None
    networks: dict[str, nn.Module]
    histories: dict[str, list[list[dict[str, Any]]]]
    details: Sequence[Details] = ()

    @property
    def rows(self) -> Sequence[Row]:
        return list(self.summary["rows"])

    @property
    def title(self) -> str:
        return f"{self.summary['settings']['target']} on {self.summary['settings']['data']['name']}"

    def sentences(self) -> list[str]:
        """What got better and what did not."""
        from leanconv.report import verdict

        return verdict.sentences(self.rows)

    def table(self) -> TextTable:
        from leanconv.report import tables

        heads, cells = tables.cells(self.rows)
        return TextTable(heads, cells, note=tables.notes(self.rows), title=self.title)

    def page(self) -> Page:
        from leanconv.report import page

        return page.of_compare(self.summary, self.histories, self.details)

    def to_json(self) -> dict[str, Any]:
        """As in summary.json."""
        return self.summary

    def write(self, folder: Path) -> Path:
        """Write summary.json, report.md and report.html; returns the page's path."""
        from leanconv.report import page

        write_json(folder / SUMMARY_FILE, self.summary)
        return page.write(folder, self.summary, self.histories, self.details)


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
        data, methods = "digits", data  # type: ignore[assignment]
    check_several(models, methods)
    images = as_images(data, test_split=test_split)  # type: ignore[arg-type]
    options = {name: settings.pop(name) for name in ("callbacks", "logger", "strategy", "devices") if name in settings}
    if any(not isinstance(logger, str) for logger in check_loggers(options.get("logger"))):
        raise SettingError(
            "a Logger object would mix the runs of a comparison; give its name: tensorboard, csv or wandb"
        )
    chosen = settings_for(config, images, settings)
    shared = {
        "where": tuple(where),
        "exclude": tuple(exclude),
        "include": include,
        "init": init,
        "pretrained": pretrained,
    }
    asked = methods_of(methods)
    jobs = [
        Job(network, method, images, chosen.replace(seed=seed), **shared, keep_stem=keep_stem, name=name)
        for seed in range(chosen.seed, chosen.seed + seeds)
        for name, network, method in _labelled(models, asked)
    ]
    tell = teller(progress)
    with _folder(out) as folder:
        trained = train_all(jobs, folder, progress=progress, accelerator=device, **options)
        if not leads():  # which has trained with the first process, and measures and shows nothing
            return Comparison({"rows": []}, None, {}, {})
        networks = _networks(trained, tell)
        execution = {
            "batch": latency_batch, "device": device_of(device), "channels_last": chosen.channels_last,
            "threads": chosen.threads, "seconds": LATENCY_SECONDS,
        }  # fmt: skip
        measured = _measure(networks, jobs[0].input_size, execution, tell) if latency else {}
        summary = _summary(jobs, make_rows(trained, measured), execution if latency else None, command)
        histories = {label: [run.history for run in runs.done.values()] for label, runs in trained.items()}
        found = Comparison(summary, folder if out is not None else None, networks, histories, _details(networks))
        if out is not None:
            found.write(folder)
        return found


def check_several(models: Networks, methods: Methods | None) -> None:
    """Raise SettingError where there is one network and no method to compare it with."""
    several = isinstance(models, list | tuple | Mapping) and len(models) > 1
    if methods is None and not several:
        named = next(iter(models)) if isinstance(models, list | tuple | Mapping) else models
        text = named if isinstance(named, str) else type(named).__name__
        raise SettingError(
            f'nothing to compare {text} with; add --methods "dense,split(ratio=0.5)" (methods=) or another network'
        )


def default_folder(targets: Sequence[str], data: ImageData) -> Path:
    """Where a comparison of networks by name is kept."""
    return Path("runs") / f"{'-'.join(map(slug, targets))}-{data.name}"


def _are_methods(value: Any) -> bool:
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return len(entries) > 0 and all(entry is None or isinstance(entry, str | Method) for entry in entries)


def methods_of(methods: Methods | None) -> dict[str, Method | None]:
    """Methods by their labels: the canonical texts, or those of a mapping; None is dense alone."""
    if methods is None or isinstance(methods, str):
        return parse_methods(methods or DENSE)
    if isinstance(methods, Mapping):
        return dict(methods)
    found: dict[str, Method | None] = {}
    for entry in methods:
        for label, method in parse_methods(entry).items() if isinstance(entry, str) else [(label_of(entry), entry)]:
            if label in found:
                raise SettingError(f"{label} is given twice; leave one out")
            found[label] = method
    return found


def _labelled(models: Networks, methods: Mapping[str, Method | None]) -> Iterator[tuple[str, Network, Method | None]]:
    """What each run is called, its network and its method: the method for one network, the network (and method) for several."""
    named = dict(models) if isinstance(models, Mapping) else None
    if named is None and isinstance(models, list | tuple):
        if len(set(models)) < len(models):
            twice = next(model for model in models if models.count(model) > 1)
            raise SettingError(f"{twice} is given twice; leave one out")
        named = {str(model): model for model in models} if len(models) > 1 else None
        models = models[0]
    if named is None:
        yield from ((label, models, method) for label, method in methods.items())  # type: ignore[misc]
        return
    for name, network in named.items():
        for label, method in methods.items():
            yield name if label == DENSE else f"{name} {label}", network, method


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _networks(trained: Mapping[str, MethodRuns], tell: Tell) -> dict[str, nn.Module]:
    """The trained network of each method; one that cannot be read back is told of and left out."""
    found = {}
    for label, runs in trained.items():
        try:
            if runs.done:
                found[label] = runs.network
        except LeanconvError as error:  # its accuracy stands without
            tell(LeftOut(label, "its latency is not measured and its layers are not shown", str(error)))
    return found


def _measure(
    networks: Mapping[str, nn.Module], input_size: tuple[int, int, int], options: Mapping[str, Any], tell: Tell
) -> dict[str, Latency]:
    """The inference latency of the networks, interleaved; ratios are to dense, else to the first."""
    if not networks:
        return {}
    tell(Measuring(len(networks)))
    ordered = {label: networks[label] for label in sorted(networks, key=lambda label: label != DENSE)}
    return {latency.name: latency for latency in measure_latency(ordered, input_size, **options)}


def _details(networks: Mapping[str, nn.Module]) -> list[Details]:
    from leanconv.experiment.report import layers

    return [table for label, network in networks.items() for table in layers(label, network)]


def _summary(jobs: Sequence[Job], rows: list[Row], latency: Mapping[str, Any] | None, command: str) -> dict[str, Any]:
    """The results as ``results/schema.json`` wants them."""
    job = jobs[0]
    identity = job.identity()
    shared = {name: value for name, value in identity.items() if name not in ("method", "seed", "network")}
    shared["data"] = {name: value for name, value in identity["data"].items() if name != CLASS_NAMES}
    shared["target"] = ", ".join(dict.fromkeys(job.target for job in jobs))
    measured = {} if latency is None else {"latency": {"dtype": "float32", **latency}}
    return {
        **provenance(command),
        "kind": "compare",
        "settings": {**shared, "execution": job.execution(), **measured},
        "n": max((row["n"] for row in rows), default=0),
        "seeds": sorted({seed for row in rows for seed in row["seeds"]}),
        "rows": rows,
    }
