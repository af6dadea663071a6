"""``leanconv detect train``: train one detector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leanconv.cli.detect.flags import (
    AnchorSizes,
    Assigned,
    Backbone,
    Frozen,
    FrozenNorms,
    Layers,
    NormHead,
    OnBad,
    Photos,
    PyramidChannels,
    assigned,
    open_photos,
    with_detect_flags,
)
from leanconv.cli.options import Exclude, Init, Json, MaxPixels, Method, Pretrained, Where
from leanconv.cli.output import command_line, present, say
from leanconv.cli.train_flags import Device, Devices, given_flags, numbers


@with_detect_flags
def train(
    detector: Annotated[
        str, typer.Argument(help="retinanet, faster_rcnn, mask_rcnn, cascade_rcnn or cascade_mask_rcnn.")
    ],
    data: Photos,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the run.")],
    backbone: Backbone = "timm/resnet50",
    method: Method = "dense",
    where: Where = None,
    exclude: Exclude = None,
    init: Init = "fresh",
    pretrained: Pretrained = False,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="A named set of settings, which the flags change, such as tbc_coco_2x."),
    ] = None,
    layers: Layers = None,
    frozen: Frozen = None,
    frozen_norms: FrozenNorms = False,
    pyramid_channels: PyramidChannels = 256,
    anchor_sizes: AnchorSizes = None,
    norm_head: NormHead = False,
    settings_of_detector: Assigned = None,
    on_bad: OnBad = "skip",
    max_pixels: MaxPixels = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    device: Device = "auto",
    devices: Devices = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Train a detector on the train part of --data, and evaluate it once, at the end, on the val part.

    The folder contains the settings, the losses of each epoch, a checkpoint, the detector with the plan of its backbone, and
    the result. --method converts the backbone.
    """
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
    build |= assigned(settings_of_detector or [])
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
