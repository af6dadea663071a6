"""``leanconv detect eval``: average precision, overall and under occlusion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from leanconv.cli.detect.flags import OnBad, Part, Photos, Runs
from leanconv.cli.options import Json, MaxPixels, Report
from leanconv.cli.output import command_line, say, show, show_json, write_page
from leanconv.cli.train_flags import Device, device_of, numbers

if TYPE_CHECKING:
    from leanconv.detect import DetectionData


def evaluate(
    runs: Runs,
    data: Photos,
    part: Part = "val",
    occlusion: Annotated[
        Literal["masks", "boxes", "none"] | None,
        typer.Option("--occlusion", help="By what objects overlap. Default: masks, where the data has some that can."),
    ] = None,
    edges: Annotated[
        str | None,
        typer.Option("--edges", metavar="RATIOS", help="Where bins of the occlusion ratio begin. [0,0.1,...,0.8]"),
    ] = None,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option("--precision", help="What it computes in.")] = "fp32",
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")] = None,
    on_bad: OnBad = "skip",
    max_pixels: MaxPixels = None,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """COCO's average precision and recall of detectors, on all photos and by how much the objects of a photo overlap.

    Occlusion ratio of a photo: the share of its instances' area that another instance covers too.
    """
    from leanconv.cli.detect.job import open_photos
    from leanconv.core.machine import provenance
    from leanconv.detect.evaluate import EDGES, check_request

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    photos = open_photos(data, on_bad, (part,), max_pixels)
    by = occlusion or ("masks" if photos.has_masks and photos.masks_overlap else "boxes")
    cut = EDGES if edges is None else numbers("--edges", edges)
    check_request(photos.part(part), None if by == "none" else by, cut)
    found = [
        _scored(run, photos, part, None if by == "none" else by, cut, precision, device_of(device)) for run in runs
    ]
    if as_json:
        asked = {"data": photos.name, "part": part, "occlusion": by, "edges": list(cut), "precision": precision}
        head = {**provenance(command_line()), "kind": "detection", "settings": asked, "n": 1, "seeds": []}
        show_json({**head, "rows": found})
    else:
        _show(found, f"{photos.name}, {part}: {found[0]['val']['photos']} photos", by)
    if report is not None:
        _write(found, f"Detectors on {photos.name}", part, by, report)


def _scored(
    folder: str, data: DetectionData, part: Any, by: Any, edges: tuple[float, ...], precision: str, device: str
) -> dict[str, Any]:
    """One detector's counts and scores, as `leanconv detect train` writes them."""
    from leanconv.cli.detect.job import counts
    from leanconv.cli.detect.progress import counter
    from leanconv.detect import evaluate_detector, load_detector
    from leanconv.detect.classes import for_detector

    detector = load_detector(folder).to(device)
    photos = for_detector(detector, data).part(part)
    with counter(f"{folder}: photos", len(photos)) as step:
        scores = evaluate_detector(detector, photos, precision=precision, by=by, edges=edges, progress=step)
    for line in scores.unread:
        say(f"leanconv: counted as without detections: {line}")
    return {"label": folder.rstrip("/"), "counts": counts(detector), "val": scores.to_json()}


def _show(found: list[dict[str, Any]], title: str, by: str) -> None:
    from leanconv.report import detection, tables

    show(detection.rich_table(found, title))
    if by != "none":
        show(tables.rich_of(*detection.slices(found), detection.OCCLUSION_NOTE, f"Under occlusion, by {by}"))


def _write(found: list[dict[str, Any]], title: str, part: str, by: str, path: Path) -> None:
    from leanconv.core.machine import provenance
    from leanconv.report import detection
    from leanconv.report.page import table_page

    facts = provenance(command_line())
    kinds = list(dict.fromkeys(kind for run in found for kind in run["val"]["metrics"]))
    occluded = [detection.occlusion_figure(found, kind, metric) for kind in kinds for metric in ("AP", "AP75")]
    sizes = [detection.backbone_figure(found, kind) for kind in kinds]
    sections = [
        (f"Under occlusion, by {by}", [figure for figure in occluded if figure]),
        ("Parameters", [figure for figure in sizes if figure]),
    ]
    heads, cells = detection.table(found)
    names, rows = detection.measures(found)
    notes = detection.NOTE if by == "none" else f"{detection.NOTE} {detection.OCCLUSION_NOTE}"
    subtitle = f"leanconv detect eval, {part} part, {facts['created']}"
    page = table_page(
        title, subtitle, heads, cells, notes=notes, sections=[section for section in sections if section[1]],
        names=names, rows=rows, summary=facts,
    )  # fmt: skip
    write_page(page, path)
