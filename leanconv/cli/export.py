"""``leanconv export``: checked files for other runtimes, with their sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from leanconv.cli.options import Json, Pretrained, Seed, Size, State, Target, Weights, formats_of, input_size
from leanconv.cli.output import show, show_json
from leanconv.cli.task_flags import opened, with_task_flags

if TYPE_CHECKING:
    from rich.table import Table

    from leanconv.core.meta import InputSize
    from leanconv.deploy.export import Exported


@with_task_flags
def export(
    target: Target,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the files.")],
    to: Annotated[
        str, typer.Option("--to", metavar="LIST", help="Formats, by comma: onnx, pt2, openvino, state-dict.")
    ] = "onnx",
    form: Annotated[
        Literal["compact", "fast", "measured"],
        typer.Option(
            "--form",
            help="compact: each shared weight stored once; fast: expanded and folded for speed; measured: the fastest form here.",
        ),
    ] = "compact",
    size: Size = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Compare the outputs on the images of this folder too."),
    ] = None,
    weights: Weights = None,
    state: State = None,
    pretrained: Pretrained = False,
    seed: Seed = 0,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Export TARGET. Each file is run on random inputs, and on your images, and its outputs are compared with PyTorch.

    A file with other outputs is not written, and the exit code is 3. A file's metadata hold the classes and the preparation of
    images, which a server needs; for a network that leanconv did not train, give them with --classes and --like, or --mean
    and --std.
    """
    import torch

    from leanconv.core.errors import SettingError
    from leanconv.core.modes import in_eval
    from leanconv.core.notes import get_task, input_size_of, set_task, task_of
    from leanconv.deploy.export import export as write
    from leanconv.deploy.images import image_tensors

    kinds = formats_of(to)
    torch.manual_seed(seed)
    model = in_eval(opened(target, weights, state, settings, pretrained=pretrained))
    shape = input_size(size) or input_size_of(model)
    if shape is None:
        raise SettingError(f"{target} does not say its input size; give it with --input-size 3,224,224")
    task = task_of(model, shape)
    if get_task(model) is not None:
        set_task(model, task)
    seen = [] if images is None else image_tensors(images, task)
    name = Path(target).expanduser().resolve().name if Path(target).expanduser().is_dir() else target.split("(")[0]
    stem = name.replace("/", "_")
    found = [
        write(model, out / stem, to=kind, form=form, example=torch.randn(2, *shape), images=seen) for kind in kinds
    ]
    if as_json:
        show_json({"target": target, "form": form, "files": [exported.to_json() for exported in found]})
        return
    show(_table(found, shape))


def _table(found: Sequence[Exported], shape: InputSize) -> Table:
    from rich.table import Table

    from leanconv.report.tables import NONE
    from leanconv.report.tables import size as size_text

    table = Table(caption="Weights in the network, in all files of the format, and in memory once loaded.")
    for head in ("Format", "File", "Unique", "On disk", "Loaded", "Largest error", "Inputs compared", "Image size"):
        table.add_column(head, justify="left" if head in ("Format", "File") else "right", overflow="fold")
    for exported in found:
        table.add_row(
            exported.to, exported.path.name, size_text(exported.unique_bytes), size_text(exported.file_bytes),
            NONE if exported.loaded_bytes is None else size_text(exported.loaded_bytes),
            f"{exported.max_error:.2g}", str(exported.compared),
            "any" if exported.any_size else f"{shape[1]}x{shape[2]}",
        )  # fmt: skip
    return table
