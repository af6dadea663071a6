"""``leanconv quantize``: int8 files, with their accuracy, latency and size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from leanconv.cli.options import Data, DataRoot, Download, Folder, Json, MaxPixels, OnBad, Seed, TestSplit
from leanconv.cli.output import say, show, show_json

if TYPE_CHECKING:
    from leanconv.deploy.int8 import Int8Row

CHECKED = 1024  # training images for --max-drop


def quantize(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the files.")],
    data: Data = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    on_bad: OnBad = "refuse",
    max_pixels: MaxPixels = None,
    test_split: TestSplit = None,
    runtime: Annotated[
        Literal["onnxruntime", "openvino"],
        typer.Option("--runtime", help="The runtime of the files; openvino needs nncf."),
    ] = "onnxruntime",
    form: Annotated[
        Literal["compact", "fast"],
        typer.Option("--form", help="As of leanconv export: fast, or each shared weight once."),
    ] = "fast",
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop", min=0, help="Lose at most these points of accuracy on other training images; openvino only."
        ),
    ] = None,
    calibrate: Annotated[
        int, typer.Option("--calibrate", min=1, help="Number of training images that give the ranges of activations.")
    ] = 512,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images in each timed call.")] = 1,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: all cores.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Seconds of measurement.")] = 10.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Quantise the network in DIR to int8 for a runtime; compare accuracy, latency and size with the float32 file.

    Training images give the ranges of activations, and test images the accuracy. `leanconv eval` and `leanconv predict` take the
    files.
    """
    from leanconv.cli.images import open_images
    from leanconv.core.notes import set_task
    from leanconv.deploy import int8
    from leanconv.files.load import load
    from leanconv.train.prepared import check_fits, task_on

    images = open_images(data, data_root, download, on_bad, max_pixels, test_split, networks=(folder,))
    model = load(folder)
    task = task_on(model, images)
    set_task(model, task)  # which is written into the metadata of the files
    check_fits(model, images, task.image_size)
    say(f"quantising with {calibrate} training images of {images.name}")
    check = () if max_drop is None else int8.held_for_check(images, task, CHECKED, calibrate, seed)
    made = int8.quantize(
        model, out / Path(folder).resolve().name, int8.calibration(images, task, calibrate, seed), runtime=runtime, form=form,
        check=check, max_drop=max_drop,
    )  # fmt: skip
    say(f"testing both files on {len(images.test):,} images")
    rows = int8.compare_int8(made, images, task, batch=batch, threads=threads, seconds=seconds)
    if as_json:
        settings = {"batch": batch, "threads": threads, "calibrate": calibrate, "runtime": runtime, "form": form}
        told = {"model": folder, "data": images.name, "path": str(made.path), "max_drop": max_drop}
        show_json(told | settings | {"rows": [asdict(row) for row in rows]})
        return
    _show(rows, made.path, batch, runtime)


def _show(rows: Sequence[Int8Row], path: Path, batch: int, runtime: str) -> None:
    from leanconv.report.tables import rich_of, size

    lines = []
    for row in rows:
        t = row.latency
        ms = f"{t.median_ms:.3f} ({t.q25_ms:.3f}-{t.q75_ms:.3f})"
        sizes = [size(row.file_bytes), size(row.loaded_bytes)]
        lines.append([row.name, *sizes, f"{row.top1_pct:.2f}", ms, f"{t.ratio:.2f}"])
    before, after = rows
    show(
        f"{path}: {after.latency.ratio:.2f} of the time of float32 in {runtime}, top-1 {before.top1_pct:.2f} -> "
        f"{after.top1_pct:.2f} %"
    )
    note = f"{before.n:,} test images; ms: median and quartiles of a call on {batch} image(s), interleaved."
    show(rich_of(("Weights", "File", "Loaded", "Top-1 %", "ms", "ratio"), lines, note))
