"""``leanconv train``: train one network."""

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
    MaxPixels,
    Method,
    OnBad,
    Pretrained,
    State,
    Target,
    TestSplit,
    Vectors,
    Weights,
    Where,
)
from leanconv.cli.output import command_line, earlier_run, say, show, show_json, write_page
from leanconv.cli.task_flags import given_task, with_task_flags
from leanconv.cli.train_flags import Device, Devices, Loggers, Recipe, settings_of, with_train_flags
from leanconv.core.processes import leads


@partial(with_task_flags, leave_out=("image_size",))
@with_train_flags
def train(
    target: Target,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the run.")],
    config: Config = None,
    data: Data = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    on_bad: OnBad = "refuse",
    max_pixels: MaxPixels = None,
    test_split: TestSplit = None,
    method: Method = "dense",
    where: Where = None,
    exclude: Exclude = None,
    include: Include = None,
    align: Vectors = None,
    init: Init = "fresh",
    pretrained: Pretrained = False,
    weights: Weights = None,
    state: State = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", metavar="NAME|DIR", help="Learn from this trained network; see the --distill flags."),
    ] = None,
    recipe: Recipe = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    device: Device = "auto",
    devices: Devices = None,
    logger: Loggers = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Train TARGET, converted by --method or unconverted, and test it once at the end.

    The folder contains the settings, the metrics of each epoch, a checkpoint, the network and the result. Its config.yaml
    repeats the run: leanconv train --config DIR/config.yaml --out OTHER.
    """
    from leanconv.cli.images import open_images
    from leanconv.core.task_settings import TaskSettings
    from leanconv.experiment.fit import fit

    task = given_task({name: settings.pop(name, None) for name in ("classes", "mean", "std", "like")})
    images = open_images(data, data_root, download, on_bad, max_pixels, test_split, networks=(target, teacher))
    ended = earlier_run(out, resume)
    try:
        run = fit(
            target, images, recipe, out, method=method, where=where or (),
            exclude=exclude or (), include=include, align=align, init=init, pretrained=pretrained,
            teacher=teacher, weights=weights, state=state, task=TaskSettings(**task), resume=resume, device=device,
            devices=devices, logger=logger,
            **settings_of(config, settings),
        )  # fmt: skip
    except KeyboardInterrupt:
        say(f"interrupted; add --resume to continue the run in {out}")
        raise
    if not leads():
        return
    ended()
    write_page(run.page(command_line()), out / "report.html")
    if as_json:
        show_json(run.to_json())
    else:
        show(f"{run}; saved in {out}")
