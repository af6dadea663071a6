"""Networks trained by the papers' recipes and put beside their printed accuracies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leanconv.core.atomic import write_json
from leanconv.core.errors import SettingError
from leanconv.core.machine import provenance
from leanconv.core.processes import leads
from leanconv.data import ImageData, open_data
from leanconv.experiment.events import LeftOut, teller
from leanconv.experiment.job import Job
from leanconv.experiment.rows import make_rows
from leanconv.experiment.series import train_all
from leanconv.papers.detectors import train_detectors
from leanconv.papers.results import Settings, Trained
from leanconv.papers.rows import Accuracy
from leanconv.report.tables import Row
from leanconv.train.config import TrainConfig
from leanconv.train.recipes import RECIPES


def train_printed(
    pattern: str,
    printed: Sequence[Accuracy],
    asked: Settings,
    data: ImageData | str | None,
    root: Path | None,
    download: bool,
    backbone: Path | None,
) -> Trained | None:
    """Train the networks of these rows, which are of one data set and one recipe, and put them beside what is printed.

    Raises:
        SettingError: rows of several data sets or recipes, or data that leanconv does not fetch.
    """
    sets = list(dict.fromkeys(row.dataset for row in printed))
    if len(sets) > 1:
        raise SettingError(f"{pattern!r} names rows on {' and '.join(sets)}; choose with PAPER and --table")
    recipes = sorted({str(row.recipe) for row in printed})
    if len(recipes) > 1:
        raise SettingError(f"{pattern!r} names rows of the recipes {' and '.join(recipes)}; name rows of one")
    if printed[0].detector is not None:
        if isinstance(data, ImageData):
            raise SettingError("a detector is trained on a folder of photos; give its path")
        return train_detectors(printed, asked, data, backbone)
    folder = asked.folder(printed[0])
    configs = [_config(row, asked) for row in printed]  # before the images are read: a mistake shows at once
    images = data if isinstance(data, ImageData) else _images(printed[0], data, root, download, asked)
    jobs = [
        Job(str(row.network), None, images, config.replace(seed=seed), name=_label(row))
        for seed in asked.seeds
        for row, config in zip(printed, configs, strict=True)
    ]
    trained = train_all(jobs, folder, progress=asked.progress, accelerator=asked.device)
    if not leads():
        return None
    rows = [_beside(row, made) for row in printed for made in make_rows(trained, {}) if made["method"] == _label(row)]
    summary = _summary(rows, jobs[0], asked)
    write_json(folder / "summary.json", summary)
    epochs = jobs[0].config.epochs
    note = f"Ours after {epochs} epochs, tested once. ± is the standard deviation over n seeds."
    return Trained(summary, folder, note)


def _label(row: Accuracy) -> str:
    return f"{row.row} ({row.network})"


def _config(row: Accuracy, asked: Settings) -> TrainConfig:
    assert row.recipe is not None
    return RECIPES[row.recipe]().scaled(asked.scale).replace(**asked.changes)


def _images(row: Accuracy, data: str | None, root: Path | None, download: bool, asked: Settings) -> ImageData:
    if data is None and row.dataset not in ("cifar10", "cifar100"):
        raise SettingError(f"{row.row} is trained on {row.dataset}, which leanconv does not fetch; give --data FOLDER")
    images = open_data(data or row.dataset, root=root, download=download)
    tell = teller(asked.progress)
    for line in images.problems.lines():
        tell(LeftOut("leanconv", "left out", line))
    return images


def _beside(printed: Accuracy, made: Row) -> Row:
    """A trained row with the printed figure; an error is compared with 100 minus the accuracy."""
    ours = made["test_top1_pct"] if printed.metric in ("top1", "error") else made["test_top5_pct"]
    if ours is not None and printed.metric == "error":
        ours = 100 - ours
    note = {field.name: getattr(printed, field.name) for field in dataclasses.fields(printed)}
    return made | note | {"network": str(printed.network), "ours": ours}


def _summary(rows: Sequence[Row], job: Job, asked: Settings) -> dict[str, Any]:
    identity = job.identity()
    return {
        **provenance(asked.command),
        "kind": "accuracy",
        "settings": {
            "data": identity["data"],
            "scale": asked.scale,
            "train": identity["train"],
            "execution": job.execution(),
        },
        "n": max((row["n"] for row in rows), default=0),
        "seeds": sorted({seed for row in rows for seed in row["seeds"]}),
        "rows": list(rows),
    }
