"""``leanconv prune``: remove channels of a network, or the smallest of its blending weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leanconv.cli.options import (
    Align,
    Allocate,
    Criterion,
    Data,
    DataRoot,
    Download,
    Folder,
    Json,
    Macs,
    MaxPixels,
    OnBad,
    Seed,
    TestSplit,
    new_network,
)
from leanconv.cli.output import show, show_json


def prune(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to save the pruned network.")],
    macs: Macs = None,
    fraction: Annotated[
        float | None,
        typer.Option("--fraction", min=0.0, max=1.0, help="Fraction of the blending weights to set to zero."),
    ] = None,
    criterion: Criterion = "reconstruction",
    allocate: Allocate = None,
    align: Align = 8,
    count: Annotated[
        int, typer.Option("--images", min=1, help="Training images for the criteria that need data.")
    ] = 256,
    data: Data = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    on_bad: OnBad = "refuse",
    max_pixels: MaxPixels = None,
    test_split: TestSplit = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Prune the network in DIR without retraining, and save it: with --macs whole channels, with --fraction blending weights.

    The command prints the accuracy on the test part and the bytes on disk, before and after. A network with fewer channels is
    an ordinary network: train it, convert it, export it. `analyse --what pruning` helps to choose the fraction.
    """
    from leanconv.cli.images import open_images
    from leanconv.core.errors import SettingError
    from leanconv.files.load import load
    from leanconv.files.save import MODEL_FILE, save
    from leanconv.report.tables import size
    from leanconv.search.pruning import prune_counted
    from leanconv.train.prepared import check_fits, labelled_batches, scores_of, task_on

    if (macs is None) == (fraction is None):
        raise SettingError("give --macs to remove channels, or --fraction to set blending weights to zero")
    new_network(out)
    images = open_images(data, data_root, download, on_bad, max_pixels, test_split, networks=(folder,))
    model = load(folder)
    task = task_on(model, images)
    check_fits(model, images, task.image_size)
    if macs is None:
        pruned, done, said = _blending(model, fraction)
    else:
        asked: dict[str, Any] = {"criterion": criterion, "align": align, "seed": seed}
        asked["input_size"] = (len(task.mean), *task.image_size)
        pruned, done = prune_counted(model, macs, allocate, **asked, data=labelled_batches(images, task, count, seed))
        said = (
            f"MACs {done['macs_before']:,} -> {done['macs_after']:,} ({done['macs_after'] / done['macs_before']:.2f})"
        )
    before, after = (scores_of(network, images, task).top1_pct for network in (model, pruned))
    sizes = [(Path(folder) / MODEL_FILE).stat().st_size]  # before the save, which may be to the same folder
    sizes.append((save(pruned, out) / MODEL_FILE).stat().st_size)
    found = {
        "model": folder, "out": str(out), "data": images.name, **done, "bytes_before": sizes[0],
        "bytes_after": sizes[1], "top1_pct_before": before, "top1_pct_after": after,
    }  # fmt: skip
    told = f"top-1 {before:.2f} % -> {after:.2f} %; {size(sizes[0])} -> {size(sizes[1])} on disk; {said}"
    if as_json:
        show_json(found)
    else:
        show(f"{images.name} test: {told}; saved in {out}")


def _blending(model: Any, fraction: Any) -> tuple[Any, dict[str, Any], str]:
    from leanconv.analyse.blending import blending_weights, prune_blending

    pruned = prune_blending(model, fraction)
    left = sum(int((weight != 0).sum()) for weight in blending_weights(pruned).values())
    return pruned, {"fraction": fraction, "blending_weights": left}, f"{left:,} blending weights left"
