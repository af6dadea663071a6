"""``leanconv compare``: train and measure networks, and show one table."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from leanconv.cli.config_file import Config
from leanconv.cli.options import (
    Data,
    DataRoot,
    Download,
    Exclude,
    Include,
    Init,
    Json,
    LatencyBatch,
    MaxPixels,
    Methods,
    On,
    OnBad,
    Pretrained,
    Targets,
    TestSplit,
    Vectors,
    Where,
)
from leanconv.cli.output import command_line, say, show, show_json
from leanconv.cli.train_flags import Device, Loggers, Recipe, settings_of, with_train_flags
from leanconv.core.processes import leads
from leanconv.train.config import DISTILL


@partial(with_train_flags, leave_out=DISTILL)  # a comparison has no teacher
def compare(
    targets: Targets,
    methods: Methods = None,
    config: Config = None,
    data: Data = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    on_bad: OnBad = "refuse",
    max_pixels: MaxPixels = None,
    test_split: TestSplit = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each method, beginning with --seed.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder of the results. Default: runs/TARGET-DATA."),
    ] = None,
    where: Where = None,
    exclude: Exclude = None,
    include: Include = None,
    align: Vectors = None,
    init: Init = "fresh",
    pretrained: Pretrained = False,
    recipe: Recipe = None,
    latency_batch: LatencyBatch = 1,
    device: Device = "auto",
    on: On = None,
    logger: Loggers = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Train each TARGET with each method and the same seeds, and compare parameters, MACs, accuracy and latency.

    Several targets are rows of one table, each with every method; ratios compare with the first. The first convolution of a
    network stays dense. Accuracy is measured on the test part, once for each finished network. Run the same command again
    to continue an interrupted comparison; finished runs are kept. Comparisons of different methods may share a folder; the
    later report shows both.
    """
    from leanconv.cli.images import open_images
    from leanconv.experiment.compare import compare, default_folder
    from leanconv.experiment.grid import check_several

    check_several(targets, methods)  # checked before the images are read
    images = open_images(data, data_root, download, on_bad, max_pixels, test_split, networks=targets)
    folder = out or default_folder(targets, images)
    try:
        found = compare(
            targets, images, recipe, folder, methods=methods, seeds=seeds, where=where or (), exclude=exclude or (),
            include=include, align=align, init=init, pretrained=pretrained, latency_batch=latency_batch, device=device,
            on=on, logger=logger, command=command_line(portable=True), **settings_of(config, settings),
        )  # fmt: skip
    except KeyboardInterrupt:
        say(f"interrupted; the same command continues in {folder}")
        raise
    if not leads():
        return
    report = f"report: {folder / 'report.html'}"
    if as_json:
        show_json(found.to_json())
        say(report)
    else:
        show(found.table(), "", *found.sentences(), "", report)
    if any(row["failed"] for row in found.rows):
        raise typer.Exit(1)
