"""``leanconv train``: one network, one run."""

from __future__ import annotations

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
    Method,
    OnBad,
    Pretrained,
    Target,
    TestSplit,
    Where,
)
from leanconv.cli.output import command_line, say, show, show_json, write_page
from leanconv.cli.train_flags import Device, Devices, Loggers, Recipe, train_config, with_train_flags
from leanconv.core.processes import leads

if TYPE_CHECKING:
    from leanconv.cli.runs import Job


@with_train_flags
def train(
    target: Target,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the run.")],
    data: Data = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    on_bad: OnBad = "refuse",
    max_pixels: MaxPixels = None,
    test_split: TestSplit = None,
    method: Method = "dense",
    where: Where = None,
    exclude: Exclude = None,
    init: Init = "fresh",
    pretrained: Pretrained = False,
    recipe: Recipe = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    device: Device = "auto",
    devices: Devices = None,
    logger: Loggers = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Train TARGET, converted by --method or as it is, and test it once at the end.

    The folder holds the settings, the metrics of each epoch, a checkpoint, the network and the result.
    """
    from leanconv.cli.images import open_images
    from leanconv.cli.methods import parse_method
    from leanconv.cli.runs import Job, history, run
    from leanconv.cli.target import is_saved

    images = open_images(
        data, data_root, download, on_bad, max_pixels, test_split, run=target if is_saved(target) else None
    )
    config = train_config(recipe, images, settings)
    asked = parse_method(method)
    job = Job(target, asked, images, config, tuple(where or ()), tuple(exclude or ()), init, pretrained)
    try:
        summary = run(job, out, resume=resume, accelerator=device, devices=devices, logger=logger)
    except KeyboardInterrupt:
        say(f"interrupted; add --resume to continue the run in {out}")
        raise
    if not leads():
        return
    _write_report(summary, history(out), job, out)
    if as_json:
        show_json(summary)
    else:
        test, took = summary["test"], summary["train"]["train_seconds"]
        counts = summary["counts"]
        show(
            f"{summary['method']}: test top-1 {test['top1_pct']:.2f} %, top-5 {test['top5_pct']:.2f} % on {test['n']:,} images; "
            f"{counts['params']:,} parameters; trained in {took:.0f} s; saved in {out}"
        )


def _write_report(summary: dict[str, Any], history: list[dict[str, Any]], job: Job, out: Path) -> None:
    """The run as a page: what it gave, its curves, and everything to repeat it."""
    from leanconv.cli.runs import layers
    from leanconv.core.machine import provenance
    from leanconv.report import figures
    from leanconv.report.page import table_page
    from leanconv.report.tables import duration, integer, macs, size

    counts, test, trained = summary["counts"], summary["test"], summary["train"]
    lines = [
        ["Test top-1", f"{test['top1_pct']:.2f} %"],
        ["Test top-5", f"{test['top5_pct']:.2f} %"],
        ["Test loss", f"{test['loss']:.4f}"],
        ["Test images", integer(test["n"])],
        ["Parameters, each shared tensor once", integer(counts["params"])],
        ["MACs for one image", macs(counts["macs"])],
        ["Weights", size(counts["weight_bytes"])],
        ["Epochs", str(trained["epochs"])],
        ["Training", duration(trained["train_seconds"])],
        ["Images a second", f"{trained['images_per_s']:,.0f}"],
    ]
    curves = figures.training_curves({summary["method"]: [history]})
    facts = provenance(command_line()) | {"settings": job.identity()}
    title = f"{job.target}, {summary['method']}, on {job.data.name}"
    sections = [("Training", [curves] if curves else [])]
    subtitle = f"leanconv train, {facts['created']}, seed {summary['seed']}"
    write_page(
        table_page(
            title,
            subtitle,
            ("Measure", "Value"),
            lines,
            sections=sections,
            details=layers(job.label, [out]),
            summary=facts,
        ),
        out / "report.html",
    )
