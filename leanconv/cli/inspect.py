"""``leanconv inspect``: what a method would change in a network, before anything is trained or downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leanconv.cli.options import (
    DataRoot,
    Exclude,
    FasterOnly,
    Include,
    Json,
    Latency,
    Method,
    Pretrained,
    Report,
    Size,
    Target,
    Vectors,
    Where,
    input_size,
    refuse,
)
from leanconv.cli.output import command_line, measuring, present, say
from leanconv.core.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor, nn


def inspect(
    target: Target,
    method: Method = "dense",
    where: Where = None,
    exclude: Exclude = None,
    include: Include = None,
    align: Vectors = None,
    size: Size = None,
    latency: Latency = False,
    faster_only: FasterOnly = False,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Images in each measured call. [1]")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. Default: torch's.")] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            help="Mark layers that eager, openvino or onnxruntime computes slowly; --latency measures in it.",
        ),
    ] = None,
    ratios: Annotated[
        str | None,
        typer.Option(
            "--ratios",
            metavar="DATA",
            help="Suggest a ratio of split for each layer, from its feature maps on test images.",
        ),
    ] = None,
    data_root: DataRoot = None,
    pretrained: Pretrained = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Show which convolutions of TARGET would convert, which stay dense and why, and how much is saved.

    No weights are needed. All convolutions that --where matches convert, also the first one, except those that --exclude
    names. For the folder of a lean network, the table shows its conversion.
    """
    from leanconv.analyse.converted import inspect as look_at
    from leanconv.conversion.methods import parse_method
    from leanconv.files.target import is_saved, open_target, open_without_weights

    asked = parse_method(method)
    if ratios is not None and not is_saved(target) and not pretrained:
        raise SettingError(
            f"--ratios needs the feature maps of a trained network: take a folder, or {target} with --pretrained"
        )
    refuse("inspect without --latency", {"--batch": batch, "--threads": threads}, not (latency or faster_only))
    real = latency or ratios is not None
    model = open_target(target, pretrained=pretrained and ratios is not None) if real else open_without_weights(target)
    seen = None if ratios is None else _images(model, target, ratios, data_root)
    found = look_at(
        model, asked, where=where or "*", exclude=exclude or (), include=include or (), align=align,
        input_size=input_size(size), latency=latency, faster_only=faster_only, batch=batch or 1, threads=threads,
        runtime=runtime, images=seen, name=target, progress=measuring, command=command_line(),
    )  # fmt: skip
    present(found, report, as_json)
    if method == "dense" and not is_saved(target):
        say(
            'leanconv: add --method, such as --method "tied_block(blocks=2)", to see each layer; `leanconv --help` has examples'
        )


def _images(model: nn.Module, target: str, data: str, data_root: Path | None) -> Tensor:
    from leanconv.analyse.images import images_for
    from leanconv.cli.images import open_images

    return images_for(model, open_images(data, data_root, False, networks=(target,)), 32).tensor
