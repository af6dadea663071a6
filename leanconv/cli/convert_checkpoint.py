"""``leanconv convert-checkpoint``: load a checkpoint of a paper's release, and save it as a network of leanconv."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leanconv.cli.options import Exclude, Json, Size, State, Target, Where, input_size, new_network
from leanconv.cli.output import show, show_json


def convert_checkpoint(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The checkpoint of the release: .safetensors, an index of several, or a file of torch.save.",
        ),
    ],
    target: Target,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to save the network.")],
    method: Annotated[
        str | None,
        typer.Option("--method", "-m", help="If TARGET is dense: the method of its convolutions in the checkpoint."),
    ] = None,
    where: Where = None,
    exclude: Exclude = None,
    state: State = None,
    shortcut_padding: Annotated[
        str | None,
        typer.Option(
            "--shortcut-padding",
            metavar="end|both",
            help="How option-A shortcuts pad new channels in the checkpoint, if its names do not show this.",
        ),
    ] = None,
    fresh_classifier: Annotated[
        bool, typer.Option("--fresh-classifier", help="Do not load the last layer of TARGET, for other classes.")
    ] = False,
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Load FILE into TARGET, a lean network or a dense network with --method, and save the network. No code in FILE runs.

    leanconv knows the released networks of the filter bases, SPConv, soft sharing and Octave ResNet, and the released
    layers of Tied Block Convolution.
    """
    from leanconv.conversion import apply
    from leanconv.conversion.methods import parse_method
    from leanconv.conversion.useful import useful_plan
    from leanconv.core.count import count
    from leanconv.core.notes import input_size_of
    from leanconv.files.checkpoints import load_checkpoint
    from leanconv.files.classifier import class_count
    from leanconv.files.save import save
    from leanconv.files.target import open_target
    from leanconv.models.resnet import pad_shortcuts

    new_network(out)
    model = open_target(target, num_classes=None if fresh_classifier else class_count(target, checkpoint, state))
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
        show(f"{checkpoint.name}: every tensor was loaded into {target}{shown}; {params:,} parameters saved in {out}")
