"""The papers' detectors: trained by their recipes and put beside what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanconv.cli.output import command_line, say, show, show_json
from leanconv.core.errors import SettingError
from leanconv.core.processes import leads

if TYPE_CHECKING:
    from leanconv.papers.rows import Accuracy

FROZEN = ("conv1", "bn1", "layer1")  # as the field does with backbones that were trained before
KINDS = {"box": "bbox", "mask": "segm"}


def train_printed(
    printed: list[Accuracy],
    scale: float,
    data: str | None,
    backbone: Path | None,
    seed: int,
    changes: dict[str, Any],
    out: Path,
    as_json: bool,
    **device: Any,
) -> None:
    """Train each detector of these rows once, evaluate it on the val part, and show print beside ours.

    Args:
        backbone: a folder with the rows' backbone, trained; without it the detector starts from scratch, nothing frozen.
    """
    from leanconv.cli.detect.job import DetectJob, open_photos, run
    from leanconv.core.atomic import write_json
    from leanconv.core.machine import provenance
    from leanconv.detect.recipes import RECIPES

    if data is None:
        row = printed[0]
        raise SettingError(f"{row.row} is trained on {row.dataset}, which leanconv does not fetch; give --data FOLDER")
    networks = {str(row.network) for row in printed}
    if backbone is not None and len(networks) > 1:
        raise SettingError(
            f"--backbone is one network, and these rows have {' and '.join(sorted(networks))}; name one row"
        )
    photos = open_photos(Path(data))
    folder = out / f"{printed[0].paper}-{printed[0].dataset}-scale{scale:g}"
    given = {name: value for name, value in changes.items() if value is not None}
    rows = []
    for name in dict.fromkeys(row.row for row in printed):
        first = next(row for row in printed if row.row == name)
        assert first.detector is not None and first.recipe is not None and first.network is not None
        config = RECIPES[first.recipe]().scaled(scale).replace(seed=seed, **given)
        build: dict[str, Any] = {} if backbone is None else {"frozen": FROZEN, "frozen_norms": True}
        target = str(first.network) if backbone is None else str(backbone)
        job = DetectJob(first.detector, target, None, photos, config, build=build)
        say(f"{name}: {job.label}")
        summary = run(job, folder / f"{first.detector}-{first.network.name.replace('/', '_')}-seed{seed}", **device)
        if not leads():
            continue
        for row in (row for row in printed if row.row == name):
            rows.append({
                "row": name, "detector": first.detector, "network": str(first.network), "metric": row.metric,
                "printed": row.printed, "ours": _ours(row.metric, summary), **summary["counts"],
            })  # fmt: skip
    if not leads():
        return
    settings = {"scale": scale, "data": photos.name, "from": "scratch" if backbone is None else backbone.name}
    result = {
        **provenance(command_line()),
        "kind": "accuracy",
        "settings": settings,
        "n": 1,
        "seeds": [seed],
        "rows": rows,
    }
    write_json(folder / "summary.json", result)
    if as_json:
        show_json(result)
    else:
        from leanconv.report.detection import percent
        from leanconv.report.tables import integer, rich_of

        heads = ("Row", "Backbone", "Metric", "Printed", "Ours", "Parameters", "of the backbone")
        names, numbers = ("row", "network", "metric", "printed"), ("params", "backbone_params")
        body = [[*(r[n] for n in names), percent(r["ours"]), *(integer(r[n]) for n in numbers)] for r in rows]
        start = "from scratch" if backbone is None else f"from {backbone}"
        note = f"Ours {start}, {config.epochs} epochs on {len(photos.train):,} photos, evaluated once, one seed."
        show(rich_of(heads, body, note, left=3), f"written: {folder / 'summary.json'}")


def _ours(metric: str, summary: dict[str, Any]) -> float | None:
    """``AP50_mask``, or ``APs``, which is of boxes."""
    name, _, kind = metric.partition("_")
    value: float | None = summary["val"]["metrics"][KINDS[kind or "box"]][name]
    return value
