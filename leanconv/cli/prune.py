"""``leanconv prune``: remove the smallest blending weights of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leanconv.cli.options import Data, DataRoot, Download, Folder, Json, MaxPixels, OnBad, TestSplit
from leanconv.cli.output import show, show_json


def prune(
    folder: Folder,
    fraction: Annotated[
        float, typer.Option("--fraction", min=0.0, max=1.0, help="Fraction of the blending weights to set to zero.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to save the pruned network.")],
    data: Data = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    on_bad: OnBad = "refuse",
    max_pixels: MaxPixels = None,
    test_split: TestSplit = None,
    as_json: Json = False,
) -> None:
    """Set the smallest blending weights of the network in DIR to zero, without retraining, and save it without the zeros.

    The command prints the accuracy on the test part and the bytes on disk, before and after. Choose the fraction with
    `analyse --what pruning`.
    """
    from leanconv.analyse.blending import blending_weights, prune_blending
    from leanconv.cli.images import open_images
    from leanconv.files.load import load
    from leanconv.files.save import MODEL_FILE, save
    from leanconv.report.tables import size
    from leanconv.train.prepared import check_fits, scores_of, task_on

    images = open_images(data, data_root, download, on_bad, max_pixels, test_split, run=folder)
    model = load(folder)
    task = task_on(model, images)
    check_fits(model, images, task.image_size)
    pruned = prune_blending(model, fraction)
    before, after = (scores_of(network, images, task).top1_pct for network in (model, pruned))
    sizes = [(Path(folder) / MODEL_FILE).stat().st_size]
    sizes.append((save(pruned, out) / MODEL_FILE).stat().st_size)
    left = sum(int((weight != 0).sum()) for weight in blending_weights(pruned).values())
    found = {
        "model": folder, "out": str(out), "data": images.name, "fraction": fraction, "blending_weights": left,
        "bytes_before": sizes[0], "bytes_after": sizes[1], "top1_pct_before": before, "top1_pct_after": after,
    }  # fmt: skip
    if as_json:
        show_json(found)
    else:
        show(
            f"{images.name} test: top-1 {before:.2f} % -> {after:.2f} %; {size(sizes[0])} -> {size(sizes[1])} on disk; "
            f"{left:,} blending weights left; saved in {out}"
        )
