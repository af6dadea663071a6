"""``leanconv detect train``: one detector, one run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Annotated, Any

import typer

from leanconv.cli.detect.flags import OnBad, Photos, with_detect_flags
from leanconv.cli.options import Exclude, Init, Json, MaxPixels, Method, Pretrained, Where
from leanconv.cli.output import command_line, present, say
from leanconv.cli.train_flags import Device, Devices, given_flags, numbers
from leanconv.core.errors import SettingError


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
    from leanconv.cli.detect.flags import open_photos
    from leanconv.conversion.methods import parse_method
    from leanconv.detect import DetectConfig, fit
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
    try:
        found = fit(
            detector, backbone, photos, out, config, method=parse_method(method), where=where or (), exclude=exclude or (),
            init=init, pretrained=pretrained, build=build, resume=resume, tell=say, device=device, devices=devices,
            command=command_line(),
        )  # fmt: skip
    except KeyboardInterrupt:
        say(f"interrupted; add --resume to continue the run in {out}")
        raise
    if found is not None:
        say(f"report: {out / 'report.html'}")
        present(found, None, as_json)


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
