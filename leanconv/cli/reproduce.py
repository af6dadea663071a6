"""``leanconv reproduce``: the printed numbers of the papers beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from leanconv.cli.options import DataRoot, Download, Json, Report, Seed
from leanconv.cli.output import command_line, present, say
from leanconv.cli.train_flags import Device
from leanconv.core.processes import leads


def reproduce(
    paper: Annotated[
        Literal["tbc", "filter_bases", "shardnet", "spconv"] | None,
        typer.Argument(help="One of the four papers; all by default."),
    ] = None,
    table: Annotated[str | None, typer.Option("--table", help="One table of the paper: 1, 2, ...")] = None,
    train: Annotated[
        str | None,
        typer.Option(
            "--train", metavar="ROW", help="Train the networks of the row with this name in a table of accuracies."
        ),
    ] = None,
    scale: Annotated[float, typer.Option("--scale", help="Fraction of the published epochs to train for.")] = 1.0,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="DATA", help="The images. Default: the data of the paper, if it is available by name."
        ),
    ] = None,
    data_root: DataRoot = None,
    download: Download = False,
    backbone: Annotated[
        Path | None,
        typer.Option(
            "--backbone", metavar="DIR", help="Trained backbone for the row of a detector. Default: train from scratch."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each row; their seeds begin with --seed.")] = 1,
    seed: Seed = 0,
    precision: Annotated[
        Literal["fp32", "bf16"] | None, typer.Option("--precision", help="Replaces the precision of the recipe.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")] = None,
    device: Device = "auto",
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of trained rows.")] = Path(
        "runs/reproduce"
    ),
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Count every network of the papers and compare with the printed numbers; with --train, train for a printed accuracy.

    Our numbers are always counted on the network built here. A trained row follows the recipe of the paper, with the
    epochs scaled by --scale, and is tested once, after the last epoch.
    """
    from leanconv.papers.reproduce import reproduce as compare

    if train is None and not leads():
        return
    try:
        found = compare(
            paper, table, train=train, scale=scale, data=data, data_root=data_root, download=download, backbone=backbone,
            seeds=range(seed, seed + seeds), precision=precision, threads=threads, device=device, out=out,
            command=command_line(),
        )  # fmt: skip
    except KeyboardInterrupt:
        say(f"interrupted; the same command continues in {out}")
        raise
    if found is None:  # another process shows the result
        return
    present(found, report, as_json)
    if any(row.get("failed") for row in found.rows):
        raise typer.Exit(1)
