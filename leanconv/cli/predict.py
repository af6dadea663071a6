"""``leanconv predict``: the likeliest classes of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from leanconv.cli.options import Json, MaxPixels, Target
from leanconv.cli.output import show, show_json
from leanconv.cli.task_flags import check_trained


def predict(
    target: Target,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files, or folders of them.")],
    backend: Annotated[
        Literal["pytorch", "onnxruntime", "openvino"], typer.Option("--backend", help="The runtime of the network.")
    ] = "pytorch",
    top: Annotated[int, typer.Option("--top", min=1, help="The number of classes to name.")] = 3,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", metavar="FILE", help="Class names, one in each line. Default: the classes of the training."
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    as_json: Json = False,
) -> None:
    """Name the likeliest classes of each image, with their confidence (the softmax of the outputs).

    TARGET may be an exported file too, such as net.int8.xml. A network that leanconv trained stores its classes and the
    preparation of its images, and so do its exported files. If an image cannot be read, the command names it, continues with
    the others, and exits with 1.
    """
    from rich.table import Table

    from leanconv.core.errors import SettingError
    from leanconv.core.notes import task_of
    from leanconv.core.shown import plain
    from leanconv.data.classes import check_labels
    from leanconv.data.encoded import MAX_PIXELS
    from leanconv.data.text import label_names, read_bytes
    from leanconv.deploy.images import files_of
    from leanconv.deploy.opened import is_exported, open_exported
    from leanconv.deploy.predict import predict as run
    from leanconv.files.target import open_target

    exported = is_exported(target)
    if exported and backend != "pytorch":
        raise SettingError(f"--backend {backend}: the file {target} has its own runtime; leave --backend out")
    if not exported:
        check_trained(target, "")
    model = open_exported(target) if exported else open_target(target)
    task = task_of(model)
    if labels is not None:
        names = label_names(read_bytes(labels, "give a text file, one name a line"), str(labels))
        check_labels(names, task.classes, str(labels))
        task = replace(task, classes=names)
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    found = list(run(model, files_of(images), task, backend=backend, top=top, max_pixels=limit))
    if as_json:
        rows = [
            {"image": str(p.path), "labels": p.labels, "confidences": p.confidences, "error": p.error} for p in found
        ]
        show_json({"target": target, "backend": backend, "images": rows})
    else:
        table = Table()
        table.add_column("Image", overflow="fold")
        for place in range(max((len(p.labels) for p in found), default=0)):
            table.add_column(f"{place + 1}.")
        for p in found:
            cells = [
                f"{plain(label)} {confidence:.1%}" for label, confidence in zip(p.labels, p.confidences, strict=True)
            ]
            table.add_row(plain(str(p.path)), *(cells or [plain(f"not read: {p.error}")]))
        show(table)
    if any(p.error for p in found):
        raise typer.Exit(1)
