"""``leanconv compare``: the main job."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanconv.cli.options import (
    Data,
    DataRoot,
    Download,
    Exclude,
    Init,
    Json,
    MaxPixels,
    OnBad,
    Pretrained,
    TestSplit,
    Where,
)
from leanconv.cli.output import say, show, show_json
from leanconv.cli.train_flags import Device, Loggers, Recipe, device_of, train_config, with_train_flags
from leanconv.core.errors import SettingError
from leanconv.core.processes import leads

if TYPE_CHECKING:
    from leanconv.cli.runs import Job

LATENCY_SECONDS = 6.0


@with_train_flags
def compare(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="One network or several: resnet20, basis_resnet56(bases=2), timm/NAME, torchvision/NAME, or a folder.",
        ),
    ],
    methods: Annotated[
        str | None,
        typer.Option("--methods", help='Separated by commas: "dense,tied_block(blocks=2)". Several networks: dense.'),
    ] = None,
    data: Data = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    on_bad: OnBad = "refuse",
    max_pixels: MaxPixels = None,
    test_split: TestSplit = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each method, from --seed on.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder of the results. Default: runs/TARGET-DATA."),
    ] = None,
    where: Where = None,
    exclude: Exclude = None,
    init: Init = "fresh",
    pretrained: Pretrained = False,
    recipe: Recipe = None,
    latency_batch: Annotated[
        int, typer.Option("--latency-batch", min=1, help="Images a call when measuring latency.")
    ] = 1,
    device: Device = "auto",
    logger: Loggers = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Train each TARGET under each method from the same seeds, and show parameters, MACs, accuracy and latency side by side.

    Several targets are rows of one table, each under every method; ratios are to the first. The first convolution of a
    network stays dense. Accuracy is that of the test part, which each finished network sees once. An interrupted
    comparison continues when the same command is given again, and finished runs are kept; two comparisons of different
    methods may share one folder, and the later report has both.
    """
    from leanconv.cli.comparison import make_rows, measure, slug, train_all
    from leanconv.cli.images import open_images
    from leanconv.cli.methods import DENSE, parse_methods
    from leanconv.cli.runs import Job

    if methods is None and len(targets) == 1:
        raise SettingError(
            f'nothing to compare {targets[0]} with; add --methods "dense,split(ratio=0.5)" or another network'
        )
    asked = parse_methods(methods or DENSE)
    images = open_images(data, data_root, download, on_bad, max_pixels, test_split)
    config = train_config(recipe, images, settings)
    folder = out or Path("runs") / f"{'-'.join(slug(target) for target in targets)}-{images.name}"
    shared = (tuple(where or ()), tuple(exclude or ()), init, pretrained)
    jobs = [
        Job(
            target,
            method,
            images,
            config.replace(seed=seed),
            *shared,
            keep_stem=True,
            name=_name(targets, target, label),
        )
        for seed in range(config.seed, config.seed + seeds)
        for target in targets
        for label, method in asked.items()
    ]
    try:
        trained = train_all(jobs, folder, accelerator=device, logger=logger)
    except KeyboardInterrupt:
        say(f"interrupted; the same command continues in {folder}")
        raise
    if not leads():  # which has trained with the first process, and measures and prints nothing
        return
    options = {
        "batch": latency_batch,
        "device": device_of(device),
        "channels_last": config.channels_last,
        "threads": config.threads,
        "seconds": LATENCY_SECONDS,
    }
    rows = make_rows(trained, measure(trained, jobs[0].input_size, options))
    summary = summarise(jobs[0], rows, options)
    summary["settings"]["target"] = ", ".join(targets)
    page = write(folder, summary, {label: list(method.folders.values()) for label, method in trained.items()})
    present(summary, page, as_json)
    if any(row["failed"] for row in rows):
        raise typer.Exit(1)


def _name(targets: list[str], target: str, label: str) -> str | None:
    """What a run is called: the method for one network, the network (and its method) for several."""
    from leanconv.cli.methods import DENSE

    if len(targets) == 1:
        return None
    if len(set(targets)) < len(targets):
        raise SettingError(f"{target} is given twice; leave one out")
    return target if label == DENSE else f"{target} {label}"


def summarise(job: Job, rows: list[dict[str, Any]], latency: dict[str, Any]) -> dict[str, Any]:
    """The results as ``results/schema.json`` wants them."""
    from leanconv.cli.runs import CLASS_NAMES
    from leanconv.core.machine import provenance

    identity = job.identity()
    shared = {name: value for name, value in identity.items() if name not in ("method", "seed")}
    shared["data"] = {name: value for name, value in identity["data"].items() if name != CLASS_NAMES}
    return {
        **provenance(shlex.join(["leanconv", *map(_portable, sys.argv[1:])])),
        "kind": "compare",
        "settings": {**shared, "execution": job.execution(), "latency": {"dtype": "float32", **latency}},
        "n": max((row["n"] for row in rows), default=0),
        "seeds": sorted({seed for row in rows for seed in row["seeds"]}),
        "rows": rows,
    }


def _portable(argument: str) -> str:
    """A path seen from here: results are shared, and say nothing about the machine's folders."""
    return os.path.relpath(argument) if os.path.isabs(argument) else argument


def write(folder: Path, summary: dict[str, Any], runs: dict[str, list[Path]]) -> Path:
    """Write summary.json, report.md and report.html; returns the page's path."""
    from leanconv.cli.runs import SUMMARY_FILE, history, layers
    from leanconv.core.atomic import write_json
    from leanconv.report import page

    write_json(folder / SUMMARY_FILE, summary)
    curves = {label: [history(run) for run in found] for label, found in runs.items()}
    details = [table for label, found in runs.items() for table in layers(label, found[:1])]
    return page.write(folder, summary, curves, details)


def present(summary: dict[str, Any], page: Path, as_json: bool) -> None:
    """Print the table, what it says, and where the report lies."""
    from leanconv.report import tables, verdict

    if as_json:
        show_json(summary)
        say(f"report: {page}")
        return
    title = f"{summary['settings']['target']} on {summary['settings']['data']['name']}"
    show(tables.rich_table(summary["rows"], title), "", *verdict.sentences(summary["rows"]), "", f"report: {page}")
