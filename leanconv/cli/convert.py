"""``leanconv convert``: convert a network and save it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leanconv.cli.options import (
    DataRoot,
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
from leanconv.cli.output import fitting, measuring, say, show, show_json

if TYPE_CHECKING:
    from torch import Tensor, nn


def convert(
    target: Target,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to save the lean network.")],
    method: Method,
    where: Where = None,
    exclude: Exclude = None,
    include: Include = None,
    size: Size = None,
    init: Init = "fit",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="Fit to the outputs on training images: digits, cifar10, cifar100, or a folder.",
        ),
    ] = None,
    data_root: DataRoot = None,
    images: Annotated[int, typer.Option("--images", min=1, help="Number of training images for --data.")] = 512,
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential", help="With --data, fit layer after layer, each on the outputs of the lean ones before it."
        ),
    ] = False,
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
    With --data, the layers are fitted to their outputs on training images, and the statistics of the normalisation layers are
    estimated again. Train the fitted network: before training, its accuracy is below that of the dense network.
    """
    import torch

    from leanconv.analyse.converted import describe
    from leanconv.conversion import apply
    from leanconv.conversion.calibrate import reestimate_norms_
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
    batches = None if data is None or plan is None else _batches(model, data, data_root, images, seed, target)
    lean = model
    if plan is not None:
        lean = apply.convert(model, plan, init, data=batches, sequential=sequential, progress=fitting)
    if batches is not None:
        reestimate_norms_(lean, batches)
    folder = save(lean, out)
    found = describe(model, lean, plan, shape)
    before, after = found["before"], found["after"]
    if as_json:
        told = {"before": before, "after": after, "uncounted": found["uncounted"]}
        show_json({"target": target, "method": label_of(asked), "out": str(folder), **told})
    else:
        show(f"{label_of(asked)}: parameters {before['params']:,} -> {after['params']:,}; saved in {folder}")
    if plan is not None and init == "fit":
        kind, far = ("weights", "far below") if data is None else ("outputs", "below")
        say(
            f"fitted to the dense {kind} and not trained: train it, because its accuracy is {far} that of the dense network"
        )


def _batches(model: nn.Module, data: str, root: Path | None, count: int, seed: int, target: str) -> list[Tensor]:
    """`count` training images of `data`, as `model` takes them."""
    from leanconv.cli.images import open_images
    from leanconv.files.target import is_saved
    from leanconv.train.prepared import check_fits, some_batches, task_on

    found = open_images(data, root, download=False, run=target if is_saved(target) else None)
    task = task_on(model, found)
    check_fits(model, found, task.image_size)
    say(f"fitting on {min(count, len(found.train)):,} training images of {found.name}")
    return list(some_batches(found.train, found, task, count, seed=seed, batch_size=128))
