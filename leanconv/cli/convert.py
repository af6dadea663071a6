"""``leanconv convert``: convert a network and save it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leanconv.cli.options import (
    DataRoot,
    Exclude,
    FasterOnly,
    FitData,
    FitImages,
    Include,
    Init,
    Json,
    Method,
    Pretrained,
    Seed,
    Sequential,
    Size,
    State,
    Target,
    Vectors,
    Weights,
    Where,
    input_size,
    new_network,
)  # fmt: skip
from leanconv.cli.output import fitting, measuring, say, show, show_json
from leanconv.cli.task_flags import opened, with_task_flags


@with_task_flags
def convert(
    target: Target,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to save the lean network.")],
    method: Method,
    where: Where = None,
    exclude: Exclude = None,
    include: Include = None,
    align: Vectors = None,
    size: Size = None,
    init: Init = "fit",
    data: FitData = None,
    data_root: DataRoot = None,
    images: FitImages = 512,
    sequential: Sequential = False,
    pretrained: Pretrained = False,
    weights: Weights = None,
    state: State = None,
    faster_only: FasterOnly = False,
    seed: Seed = 0,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Convert TARGET and save it: model.safetensors, from which the network can be loaded, and a readable plan.json.

    --init fit starts from the weights of TARGET, so give a trained network: a folder, or a name with --pretrained or --weights.
    A checkpoint does not hold how its images were prepared: give --classes and --like, or --mean and --std, once, here.
    With --data, the layers are fitted to their outputs on training images, and the statistics of the normalisation layers are
    estimated again. Train the fitted network: before training, its accuracy is below that of the dense network.
    """
    import torch

    from leanconv.analyse.converted import describe
    from leanconv.cli.images import open_images
    from leanconv.conversion.apply import fitted
    from leanconv.conversion.methods import label_of, parse_method
    from leanconv.conversion.useful import useful_plan
    from leanconv.core.notes import input_size_of
    from leanconv.files.save import save
    from leanconv.search.faster import some_faster
    from leanconv.train.prepared import training_batches

    new_network(out)
    how = parse_method(method)
    torch.manual_seed(seed)
    model = opened(target, weights, state, settings, pretrained=pretrained)
    shape = input_size(size) or input_size_of(model)
    plan = None if how is None else useful_plan(model, how, where or "*", exclude or (), shape, include or (), align)
    plan = some_faster(plan, progress=measuring) if faster_only and plan is not None else plan
    batches = None
    if data is not None:
        batches = training_batches(model, open_images(data, data_root, download=False), images, seed=seed)
        say(f"fitting on {sum(map(len, batches)):,} training images of {data}")
    lean = model if plan is None else fitted(model, plan, init, batches, sequential=sequential, progress=fitting)
    folder = save(lean, out)
    found = describe(model, lean, plan, shape)
    if as_json:
        told = {name: found[name] for name in ("before", "after", "uncounted")}
        show_json({"target": target, "method": label_of(how), "out": str(folder), **told})
    else:
        params = " -> ".join(f"{found[when]['params']:,}" for when in ("before", "after"))
        show(f"{label_of(how)}: parameters {params}; saved in {folder}")
    if plan is not None and init == "fit":
        kind, far = ("weights", "far below") if data is None else ("outputs", "below")
        say(f"fitted to the dense {kind} and not trained: train it, its accuracy is {far} that of the dense network")
