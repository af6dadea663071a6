"""``leanconv convert-checkpoint``: a checkpoint of a paper's own release as a network of leanconv's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leanconv.cli.options import Exclude, Json, Size, Target, Where, input_size
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
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Load FILE into TARGET, a lean network or a dense one with --method, and save that; no code of FILE runs.

    Known are the layers of Tied Block Convolution, SPConv and the filter bases, as their authors released them.
    """
    from leanconv.cli.methods import parse_method
    from leanconv.cli.target import make_useful_plan, open_target
    from leanconv.conversion import apply
    from leanconv.core.base import input_size_of
    from leanconv.core.count import count
    from leanconv.files.checkpoints import load_checkpoint
    from leanconv.files.save import save

    model = open_target(target)
    asked = None if method is None else parse_method(method)
    if asked is not None:
        plan = make_useful_plan(model, asked, where, exclude, input_size(size) or input_size_of(model))
        model = apply.convert(model, plan)
    save(load_checkpoint(model, checkpoint), out)
    params = count(model).params
    if as_json:
        show_json({"checkpoint": str(checkpoint), "target": target, "out": str(out), "params": params})
    else:
        show(f"{checkpoint.name}: every tensor found its place in {target}; {params:,} parameters saved in {out}")
