"""The papers' detectors: trained by their recipes and put beside what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leanconv.core.atomic import write_json
from leanconv.core.errors import SettingError
from leanconv.core.machine import provenance
from leanconv.core.processes import leads
from leanconv.detect.data import DetectionData, open_detection
from leanconv.detect.job import DetectJob, run
from leanconv.detect.recipes import RECIPES
from leanconv.experiment.events import LeftOut, teller
from leanconv.papers.results import Settings, Trained
from leanconv.papers.rows import Accuracy
from leanconv.report.tables import Row

FROZEN = ("conv1", "bn1", "layer1")  # as the field does with backbones that were trained before
KINDS = {"box": "bbox", "mask": "segm"}


def train_detectors(
    printed: Sequence[Accuracy], asked: Settings, data: str | None, backbone: Path | None
) -> Trained | None:
    """Train each detector of these rows once a seed, evaluate it on the val part, and put it beside what is printed.

    Args:
        backbone: a folder with the rows' backbone, trained; without it the detector starts from scratch, nothing frozen.
    """
    if data is None:
        row = printed[0]
        raise SettingError(f"{row.row} is trained on {row.dataset}, which leanconv does not fetch; give --data FOLDER")
    networks = {str(row.network) for row in printed}
    if backbone is not None and len(networks) > 1:
        raise SettingError(
            f"--backbone is one network, and these rows have {' and '.join(sorted(networks))}; name one row"
        )
    photos = open_detection(Path(data))
    tell = teller(asked.progress)
    for line in photos.problems.lines():
        tell(LeftOut("leanconv", "left out", line))
    names = dict.fromkeys(row.row for row in printed)
    rows: list[Row] = []
    epochs = 0
    for seed in asked.seeds:
        for name in names:
            own = [row for row in printed if row.row == name]
            job = _job(own[0], asked, photos, backbone, seed)
            epochs = job.config.epochs
            assert own[0].network is not None
            place = f"{own[0].detector}-{own[0].network.name.replace('/', '_')}-seed{seed}"
            summary = run(job, asked.folder(own[0]) / place, progress=asked.progress, accelerator=asked.device)
            rows += [_beside(row, summary) for row in own] if leads() else []
    if not leads():
        return None
    folder = asked.folder(printed[0])
    settings = {"scale": asked.scale, "data": photos.name, "from": "scratch" if backbone is None else backbone.name}
    result = {
        **provenance(asked.command),
        "kind": "accuracy",
        "settings": settings,
        "n": len(asked.seeds),
        "seeds": list(asked.seeds),
        "rows": rows,
    }
    write_json(folder / "summary.json", result)
    start = "from scratch" if backbone is None else f"from {backbone}"
    seeds = "one seed" if len(asked.seeds) == 1 else f"a row for each of {len(asked.seeds)} seeds"
    note = f"Ours {start}, {epochs} epochs on {len(photos.train):,} photos, evaluated once, {seeds}."
    return Trained(result, folder, note)


def _job(row: Accuracy, asked: Settings, photos: DetectionData, backbone: Path | None, seed: int) -> DetectJob:
    assert row.detector is not None and row.recipe is not None
    config = RECIPES[row.recipe]().scaled(asked.scale).replace(seed=seed, **asked.changes)
    build: dict[str, Any] = {} if backbone is None else {"frozen": FROZEN, "frozen_norms": True}
    target = str(row.network) if backbone is None else str(backbone)
    return DetectJob(row.detector, target, None, photos, config, build=build)


def _beside(row: Accuracy, summary: dict[str, Any]) -> Row:
    return {
        "row": row.row, "detector": row.detector, "network": str(row.network), "metric": row.metric,
        "printed": row.printed, "ours": _ours(row.metric, summary), **summary["counts"],
    }  # fmt: skip


def _ours(metric: str, summary: dict[str, Any]) -> float | None:
    """``AP50_mask``, or ``APs``, which is of boxes."""
    name, _, kind = metric.partition("_")
    value: float | None = summary["val"]["metrics"][KINDS[kind or "box"]][name]
    return value
