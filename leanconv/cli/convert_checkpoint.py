"""``leanconv convert-checkpoint``: a checkpoint of a paper's own release as a network of leanconv's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leanconv.cli.options import Exclude, Json, Size, State, Target, Where, input_size
from leanconv.cli.output import show, show_json


def convert_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FILE", help="The release's checkpoint: .safetensors, or of torch.save.")
    ],
    target: Target,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to save the network.")],
    method: Annotated[
        str | None,
        typer.Option(
            "--method", "-m", help="What TARGET's convolutions are in the checkpoint, if TARGET is a dense network."
        ),
    ] = None,
    where: Where = None,
    exclude: Exclude = None,
    state: State = None,
    shortcut_padding: Annotated[
        str | None,
        typer.Option(
            "--shortcut-padding",
            metavar="end|both",
            help="How option-A shortcuts pad new channels in the checkpoint, where its names do not tell.",
        ),
    ] = None,
    fresh_classifier: Annotated[
        bool, typer.Option("--fresh-classifier", help="Leave TARGET's last layer as it starts, for other classes.")
    ] = False,
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Load FILE into TARGET, a lean network or a dense one with --method, and save that; no code of FILE runs.

    Known are the networks of the filter bases, SPConv and soft sharing and the layers of Tied Block Convolution, as their
    authors released them, and Octave ResNet.
    """
    from leanconv.conversion import apply
    from leanconv.conversion.methods import parse_method
    from leanconv.conversion.useful import useful_plan
    from leanconv.core.base import input_size_of
    from leanconv.core.count import count
    from leanconv.files.checkpoints import load_checkpoint
    from leanconv.files.save import save
    from leanconv.files.target import open_target
    from leanconv.models.resnet import pad_shortcuts

    model = open_target(target)
    asked = None if method is None else parse_method(method)
    if asked is not None:
        plan = useful_plan(model, asked, where or "*", exclude or (), input_size(size) or input_size_of(model))
        model = apply.convert(model, plan)
    load_checkpoint(
        model, checkpoint, state=state, shortcut_padding=shortcut_padding, fresh_classifier=fresh_classifier
    )
    save(model, out)
    params = count(model).params
    if as_json:
        show_json({"checkpoint": str(checkpoint), "target": target, "out": str(out), "params": params})
    else:
        padded = {shortcut.padding for _, shortcut in pad_shortcuts(model)}
        shown = "".join(f", whose shortcuts pad at {padding!r}" for padding in padded)
        show(
            f"{checkpoint.name}: every tensor found its place in {target}{shown}; {params:,} parameters saved in {out}"
        )
