"""``leanconv reproduce``: the papers' printed figures beside ours."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from leanconv.cli.options import DataRoot, Download, Json, Report, Seed
from leanconv.cli.output import command_line, say, show, show_json, write_page
from leanconv.cli.train_flags import Device
from leanconv.core.errors import SettingError
from leanconv.core.processes import leads

if TYPE_CHECKING:
    from rich.table import Table

    from leanconv.data import ImageData
    from leanconv.experiment.job import Job
    from leanconv.papers.rows import Accuracy
    from leanconv.train import TrainConfig


def reproduce(
    paper: Annotated[
        Literal["tbc", "filter_bases", "shardnet", "spconv"] | None,
        typer.Argument(help="One of the four papers; all by default."),
    ] = None,
    table: Annotated[str | None, typer.Option("--table", help="One table of the paper: 1, 2, ...")] = None,
    train: Annotated[
        str | None,
        typer.Option("--train", metavar="ROW", help="Train the networks whose row of a printed accuracy is called so."),
    ] = None,
    scale: Annotated[float, typer.Option("--scale", help="Part of the published epochs to train for.")] = 1.0,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="DATA", help="The images. Default: the paper's, by name, where they can be had."
        ),
    ] = None,
    data_root: DataRoot = None,
    download: Download = False,
    backbone: Annotated[
        Path | None,
        typer.Option(
            "--backbone", metavar="DIR", help="Trained backbone of a detector's row; from scratch by default."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each row, from --seed on.")] = 1,
    seed: Seed = 0,
    precision: Annotated[
        Literal["fp32", "bf16"] | None, typer.Option("--precision", help="Other than the recipe's.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")] = None,
    device: Device = "auto",
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of trained rows.")] = Path(
        "runs/reproduce"
    ),
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Count every network of the papers and compare with print; with --train, train towards a printed accuracy.

    Our side is always counted on the network built here. A trained row follows the paper's recipe, its epochs shortened
    by --scale, and is tested once, after the last epoch.
    """
    if train is not None:
        chosen = {"data": data, "root": data_root, "download": download}
        changes = {"precision": precision, "threads": threads}
        _train(train, paper, table, scale, chosen, range(seed, seed + seeds), changes, device, out, as_json, backbone)
        return
    if scale != 1.0 or data is not None:
        raise SettingError("--scale and --data are for --train ROW; without it nothing is trained")
    if not leads():
        return
    from leanconv.papers import catalogue
    from leanconv.report import paper_tables

    rows = catalogue.rows(paper, table)
    if report is not None:
        from leanconv.report.page import table_page

        title = catalogue.PAPERS[paper] if paper else "Four papers, printed and counted"
        heads, cells = ("Paper", *paper_tables.HEADS), [(row.paper, *paper_tables.cells(row)) for row in rows]
        notes = f"{paper_tables.summary(rows)} {paper_tables.NOTE}"
        facts = {"command": command_line()}
        write_page(table_page(title, "leanconv reproduce", heads, cells, notes=notes, left=4, summary=facts), report)
    if as_json:
        show_json([row.to_json() for row in rows])
        return
    for name, title in catalogue.PAPERS.items():
        found = [row for row in rows if row.paper == name]
        if found:
            show(paper_tables.rich_table(found, title), paper_tables.summary(found), "")
    show(paper_tables.summary(rows))


def _train(
    pattern: str,
    paper: str | None,
    table: str | None,
    scale: float,
    chosen: dict[str, Any],
    seeds: range,
    changes: dict[str, Any],
    device: str,
    out: Path,
    as_json: bool,
    backbone: Path | None,
) -> None:
    from leanconv.core.atomic import write_json
    from leanconv.experiment.job import Job
    from leanconv.experiment.rows import make_rows
    from leanconv.experiment.series import train_all
    from leanconv.papers import catalogue

    printed = catalogue.to_train(pattern, paper, table)
    if len({row.dataset for row in printed}) > 1:
        raise SettingError(f"{pattern!r} names rows on {_several(printed)}; choose with PAPER and --table")
    if printed[0].detector is not None:
        from leanconv.cli.detect.reproduce import train_printed

        for number in seeds:
            train_printed(printed, scale, chosen["data"], backbone, number, changes, out, as_json, accelerator=device)
        return
    folder = out / f"{printed[0].paper}-{printed[0].dataset}-scale{scale:g}"
    configs = [_config(row, scale, changes) for row in printed]  # before the images are read: a mistake shows at once
    images = _images(printed[0], chosen)
    jobs = [
        Job(str(row.network), None, images, config.replace(seed=seed), name=_label(row))
        for seed in seeds
        for row, config in zip(printed, configs, strict=True)
    ]
    try:
        trained = train_all(jobs, folder, accelerator=device)
    except KeyboardInterrupt:
        say(f"interrupted; the same command continues in {folder}")
        raise
    if not leads():
        return
    rows = [_beside(row, made) for row in printed for made in make_rows(trained, {}) if made["method"] == _label(row)]
    summary = _summarise(rows, jobs[0], scale)
    write_json(folder / "summary.json", summary)
    if as_json:
        show_json(summary)
    else:
        show(_table(rows, jobs[0].config.epochs), f"written: {folder / 'summary.json'}")
    if any(row["failed"] for row in rows):
        raise typer.Exit(1)


def _several(printed: list[Accuracy]) -> str:
    return " and ".join(dict.fromkeys(row.dataset for row in printed))


def _label(row: Accuracy) -> str:
    return f"{row.row} ({row.network})"


def _config(row: Accuracy, scale: float, changes: dict[str, Any]) -> TrainConfig:
    from leanconv.train.recipes import RECIPES

    assert row.recipe is not None
    given = {name: value for name, value in changes.items() if value is not None}
    return RECIPES[row.recipe]().scaled(scale).replace(**given)


def _images(row: Accuracy, chosen: dict[str, Any]) -> ImageData:
    from leanconv.cli.images import open_images

    if chosen["data"] is None and row.dataset not in ("cifar10", "cifar100"):
        raise SettingError(f"{row.row} is trained on {row.dataset}, which leanconv does not fetch; give --data FOLDER")
    return open_images(chosen["data"] or row.dataset, chosen["root"], chosen["download"])


def _beside(printed: Accuracy, made: dict[str, Any]) -> dict[str, Any]:
    """A trained row with the printed figure; an error is compared with 100 minus the accuracy."""
    ours = made["test_top1_pct"] if printed.metric in ("top1", "error") else made["test_top5_pct"]
    if ours is not None and printed.metric == "error":
        ours = 100 - ours
    note = {field.name: getattr(printed, field.name) for field in dataclasses.fields(printed)}
    return made | note | {"network": str(printed.network), "ours": ours}


def _summarise(rows: list[dict[str, Any]], job: Job, scale: float) -> dict[str, Any]:
    from leanconv.core.machine import provenance

    identity = job.identity()
    return {
        **provenance(command_line()),
        "kind": "accuracy",
        "settings": {
            "data": identity["data"],
            "scale": scale,
            "train": identity["train"],
            "execution": job.execution(),
        },
        "n": max((row["n"] for row in rows), default=0),
        "seeds": sorted({seed for row in rows for seed in row["seeds"]}),
        "rows": rows,
    }


def _table(rows: list[dict[str, Any]], epochs: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    from leanconv.report.tables import integer, macs, spread

    table = Table(
        caption=f"Ours after {epochs} epochs, tested once. ± is the standard deviation over n seeds.",
        caption_justify="left",
    )
    for head in ("Row", "Network", "Metric", "Printed", "Ours", "n", "Parameters", "MACs"):
        table.add_column(head, justify="left" if head in ("Row", "Network", "Metric") else "right", overflow="fold")
    for row in rows:
        deviation = row["test_top5_pct_std"] if row["metric"] == "top5" else row["test_top1_pct_std"]
        texts = [row["row"], row["network"], row["metric"], row["printed"], spread(row["ours"], deviation)]
        table.add_row(*map(Text, [*texts, str(row["n"]), integer(row["params"]), macs(row["macs"])]))
    return table
