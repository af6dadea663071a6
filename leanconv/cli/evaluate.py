"""``leanconv eval``: the accuracy of a saved network."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

import typer

from leanconv.cli.options import Data, DataRoot, Download, Json, MaxPixels, OnBad, State, TestSplit, Trained, Weights
from leanconv.cli.output import say, show, show_json
from leanconv.cli.task_flags import check_trained, opened, with_task_flags


@partial(with_task_flags, leave_out=("image_size",))
def evaluate(
    folder: Trained,
    data: Data = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    on_bad: OnBad = "refuse",
    max_pixels: MaxPixels = None,
    test_split: TestSplit = None,
    weights: Weights = None,
    state: State = None,
    part: Annotated[Literal["test", "train"], typer.Option("--part", help="The part of the data.")] = "test",
    ten_crop: Annotated[bool, typer.Option("--ten-crop", help="Average over ten crops of each image.")] = False,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size", min=1, help="Resize images to this number of pixels a side. Default: as in training."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images in each step.")] = 500,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option("--precision", help="bf16 computes in bfloat16.")
    ] = "fp32",
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that decode images.")] = 0,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Test the network TARGET, or an exported file such as net.int8.xml: top-1 and top-5 accuracy and loss.

    Images are prepared as in the network's training; a checkpoint given by --weights needs --like, or --mean and --std.
    """
    from leanconv.cli.images import open_images
    from leanconv.core.notes import get_task
    from leanconv.deploy.opened import is_exported, open_exported
    from leanconv.experiment.fit import evaluate

    exported = is_exported(folder)
    if not exported:
        check_trained(folder, "--weights or ", weights)
    images = open_images(data, data_root, download, on_bad, max_pixels, test_split, networks=(folder,))
    told = any(value is not None for value in settings.values())
    if exported:
        model = open_exported(folder)
    else:
        model = opened(folder, weights, state, settings | {"image_size": image_size if told else None})
    scores = evaluate(
        model, images, part=part, image_size=image_size, batch_size=batch_size, ten_crop=ten_crop,
        precision=precision, workers=workers, together=True,
    )  # fmt: skip
    task = get_task(model)
    if task is not None and images.named and len(images.classes) < len(task.classes):
        say(f"leanconv: {images.name} has {len(images.classes)} of the network's {len(task.classes)} classes")
    if as_json:
        show_json({"model": folder, "data": images.name, "part": part, "ten_crop": ten_crop} | asdict(scores))
    else:
        show(
            f"{images.name} {part}: top-1 {scores.top1_pct:.2f} %, top-5 {scores.top5_pct:.2f} %, "
            f"loss {scores.loss:.4f} on {scores.n:,} images{_numbers(model, precision)}"
        )


def _numbers(model: Any, precision: str) -> str:
    """The number format of the computation, in words; "" for an exported file, which has its own."""
    import torch

    from leanconv.core.machine import precision_name
    from leanconv.core.meta import own_dtype
    from leanconv.deploy.opened import Called

    if isinstance(model, Called):
        return ""
    own = own_dtype(model, torch.float32)
    return f" in {precision_name(precision) if own == torch.float32 else str(own).removeprefix('torch.')}"
