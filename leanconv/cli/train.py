"""``leanconv train``: one network, one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leanconv.cli.options import Data, DataRoot, Download, Exclude, Init, Json, Method, Pretrained, Target, Where
from leanconv.cli.output import say, show, show_json
from leanconv.cli.train_flags import Device, Recipe, train_config, with_train_flags


@with_train_flags
def train(
    target: Target,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the run.")],
    data: Data = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    method: Method = "dense",
    where: Where = None,
    exclude: Exclude = None,
    init: Init = "fresh",
    pretrained: Pretrained = False,
    recipe: Recipe = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    device: Device = "auto",
    devices: Annotated[int, typer.Option("--devices", min=1, help="How many GPUs, or CPU processes.")] = 1,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Train TARGET, converted by --method or as it is, and test it once at the end.

    The folder holds the settings, the metrics of each epoch, a checkpoint, the network and the result.
    """
    from leanconv.cli.methods import parse_method
    from leanconv.cli.runs import Job, leads, run
    from leanconv.data import open_data

    images = open_data(data, root=data_root, download=download)
    config = train_config(recipe, images, settings)
    asked = parse_method(method)
    job = Job(target, asked, images, config, tuple(where or ()), tuple(exclude or ()), init, pretrained)
    try:
        summary = run(job, out, resume=resume, accelerator=device, devices=devices)
    except KeyboardInterrupt:
        say(f"interrupted; add --resume to continue the run in {out}")
        raise
    if not leads():
        return
    if as_json:
        show_json(summary)
    else:
        test, took = summary["test"], summary["train"]["train_seconds"]
        counts = summary["counts"]
        show(
            f"{summary['method']}: test top-1 {test['top1_pct']:.2f} %, top-5 {test['top5_pct']:.2f} % on {test['n']:,} images; "
            f"{counts['params']:,} parameters; trained in {took:.0f} s; saved in {out}"
        )
