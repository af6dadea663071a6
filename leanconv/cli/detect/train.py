"""``leanconv detect train``: one detector, one run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Annotated, Any

import typer

from leanconv.cli.detect.flags import OnBad, Photos, with_detect_flags
from leanconv.cli.options import Exclude, Init, Json, MaxPixels, Method, Pretrained, Where
from leanconv.cli.output import command_line, say, show, show_json, write_page
from leanconv.cli.train_flags import Device, Devices, given_flags, numbers
from leanconv.core.errors import SettingError
from leanconv.core.processes import leads


@with_detect_flags
def train(
    detector: Annotated[
        str, typer.Argument(help="retinanet, faster_rcnn, mask_rcnn, cascade_rcnn or cascade_mask_rcnn.")
    ],
    data: Photos,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the run.")],
    backbone: Annotated[
        str,
        typer.Option("--backbone", metavar="TARGET", help="A network by name, or a folder that leanconv saved one in."),
    ] = "timm/resnet50",
    method: Method = "dense",
    where: Where = None,
    exclude: Exclude = None,
    init: Init = "fresh",
    pretrained: Pretrained = False,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Settings that the flags change, such as tbc_coco_2x.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option("--layers", metavar="NAMES", help="Modules whose maps are taken, from stride 4 to 32: a,b,c,d."),
    ] = None,
    frozen: Annotated[
        list[str] | None,
        typer.Option("--freeze", metavar="NAME", help="A module of the backbone that does not train; may be repeated."),
    ] = None,
    frozen_norms: Annotated[
        bool, typer.Option("--frozen-norms", help="Batch norms of the backbone keep their statistics and weights.")
    ] = False,
    pyramid_channels: Annotated[
        int, typer.Option("--pyramid-channels", min=1, help="Channels of the feature pyramid and of the heads on it.")
    ] = 256,
    anchor_sizes: Annotated[
        str | None,
        typer.Option("--anchor-sizes", metavar="PIXELS", help="One for each of five levels. [32,64,128,256,512]"),
    ] = None,
    norm_head: Annotated[
        bool, typer.Option("--norm-head", help="Group norms in RetinaNet's head, to train it from scratch.")
    ] = False,
    settings_of_detector: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of torchvision's detector; may be repeated."),
    ] = None,
    on_bad: OnBad = "skip",
    max_pixels: MaxPixels = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    device: Device = "auto",
    devices: Devices = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Train a detector on the train part of --data, and evaluate it once, at the end, on the val part.

    The folder holds the settings, the losses of each epoch, a checkpoint, the detector with its backbone's plan, and the
    result. The backbone is converted by --method, or as it is.
    """
    from leanconv.cli.detect.job import DetectJob, open_photos, run
    from leanconv.conversion.methods import parse_method
    from leanconv.detect.config import DetectConfig
    from leanconv.detect.recipes import recipe_of

    config = recipe_of(recipe).replace(**given_flags(DetectConfig, settings))
    photos = open_photos(data, on_bad, max_pixels=max_pixels)
    build: dict[str, Any] = {"frozen_norms": frozen_norms, "frozen": tuple(frozen or ())}
    build |= {"pyramid_channels": pyramid_channels, "norm_head": norm_head}
    if layers is not None:
        build["layers"] = tuple(layers.split(","))
    if anchor_sizes is not None:
        build["anchor_sizes"] = numbers("--anchor-sizes", anchor_sizes)
    build |= _assigned(settings_of_detector or [])
    job = DetectJob(
        detector, backbone, parse_method(method), photos, config, tuple(where or ()), tuple(exclude or ()), init,
        pretrained, build,
    )  # fmt: skip
    try:
        summary = run(job, out, resume=resume, accelerator=device, devices=devices)
    except KeyboardInterrupt:
        say(f"interrupted; add --resume to continue the run in {out}")
        raise
    if not leads():
        return
    _write_report(summary, job.identity(), out)
    if as_json:
        show_json(summary)
        return
    from leanconv.report import detection

    counts, part = summary["counts"], summary["val"]["part"]
    show(
        detection.rich_table([summary], f"{summary['label']}, on the {part} part of {photos.name}"),
        f"{counts['params']:,} parameters, {counts['backbone_params']:,} of them the backbone's; saved in {out}",
    )


def _assigned(texts: list[str]) -> dict[str, Any]:
    """``box_score_thresh=0.1`` as a name and a plain value."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            equals = ""
        if not equals:
            raise SettingError(f"--set {text!r} must be a name and a plain value: box_score_thresh=0.1")
    return found


def _write_report(summary: dict[str, Any], identity: dict[str, Any], out: Path) -> None:
    from leanconv.core.machine import provenance
    from leanconv.report import detection
    from leanconv.report.page import table_page
    from leanconv.train.once import history

    facts = provenance(command_line()) | {"settings": identity}
    heads, cells = detection.table([summary])
    sections = [("Training", [detection.losses(history(out))])]
    page = table_page(
        summary["label"], f"leanconv detect train, {facts['created']}", heads, cells, notes=detection.NOTE,
        sections=sections, summary=facts,
    )  # fmt: skip
    write_page(page, out / "report.html")
