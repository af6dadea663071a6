"""``leanconv convert``: convert a network and save it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leanconv.cli.options import (
    Exclude,
    FasterOnly,
    Include,
    Init,
    Json,
    Method,
    Pretrained,
    Seed,
    Size,
    State,
    Target,
    Where,
    input_size,
)
from leanconv.cli.output import measuring, say, show, show_json


def convert(
    target: Target,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to save the lean network.")],
    method: Method,
    where: Where = None,
    exclude: Exclude = None,
    include: Include = None,
    size: Size = None,
    init: Init = "fit",
    pretrained: Pretrained = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="A checkpoint to load into TARGET first: .safetensors, or a file of torch.save.",
        ),
    ] = None,
    state: State = None,
    faster_only: FasterOnly = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Convert TARGET and save it: model.safetensors, from which the network can be loaded, and a readable plan.json.

    --init fit starts from the weights of TARGET, so give a trained network: a folder, or a name with --pretrained or --weights.
    Train the fitted network: before training, its accuracy is far below that of the dense network.
    """
    import torch

    from leanconv.analyse.converted import describe
    from leanconv.conversion import apply
    from leanconv.conversion.methods import label_of, parse_method
    from leanconv.conversion.useful import useful_plan
    from leanconv.core.notes import input_size_of
    from leanconv.files.checkpoints import load_checkpoint
    from leanconv.files.save import save
    from leanconv.files.target import open_target

    asked = parse_method(method)
    torch.manual_seed(seed)
    model = open_target(target, pretrained=pretrained)
    if weights is not None:
        load_checkpoint(model, weights, state=state)
    shape = input_size(size) or input_size_of(model)
    plan = None if asked is None else useful_plan(model, asked, where or "*", exclude or (), shape, include or ())
    if faster_only and plan is not None:
        from leanconv.search.faster import some_faster

        plan = some_faster(plan, progress=measuring)
    lean = model if plan is None else apply.convert(model, plan, init)
    folder = save(lean, out)
    found = describe(model, lean, plan, shape)
    before, after = found["before"], found["after"]
    if as_json:
        told = {"before": before, "after": after, "uncounted": found["uncounted"]}
        show_json({"target": target, "method": label_of(asked), "out": str(folder), **told})
    else:
        show(f"{label_of(asked)}: parameters {before['params']:,} -> {after['params']:,}; saved in {folder}")
    if plan is not None and init == "fit":
        say(
            "fitted to the dense weights and not trained: train it, because its accuracy is far below that of the dense network"
        )
