"""Detectors trained and evaluated by one call each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from leanconv.conversion.plan import globs_only
from leanconv.core.errors import SettingError
from leanconv.core.machine import device_of, provenance
from leanconv.core.method import Method
from leanconv.core.processes import leads, own_device
from leanconv.detect.classes import for_detector
from leanconv.detect.config import DetectConfig
from leanconv.detect.data import DetectionData, open_detection
from leanconv.detect.data.records import Part
from leanconv.detect.files import load_detector
from leanconv.detect.job import DetectJob, Tell, counts, run, silent
from leanconv.detect.progress import counter
from leanconv.detect.recipes import recipe_of
from leanconv.detect.results import DetectRun, Precision
from leanconv.detect.scoring import EDGES, check_request, evaluate_detector
from leanconv.files.target import Network
from leanconv.timing.latency import threads_set
from leanconv.train.together import together as shared_by

if TYPE_CHECKING:
    from leanconv.conversion.apply import Init

OWNERS = {  # what `build` cannot set, and what does
    "name": "DETECTOR (detector=)",
    "classes": "--data (data=)",
    "num_classes": "--data (data=)",
    "pretrained_backbone": "--pretrained (pretrained=)",
    **{name: f"--{name} ({name}=)" for name in ("backbone", "method", "where", "exclude", "init", "pretrained")},
    **{name: f"--{name.replace('_', '-')} (config=)" for name in DetectConfig.settings()},
}
Photos = DetectionData | str | os.PathLike[str]
Detectors = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, nn.Module]


def fit(
    detector: str,
    backbone: Network,
    data: Photos,
    out: str | os.PathLike[str],
    config: DetectConfig | str | None = None,
    *,
    method: Method | None = None,
    where: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    init: Init = "fresh",
    pretrained: bool = False,
    build: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: bool = True,
    tell: Tell = silent,
    device: str = "auto",
    devices: int | None = None,
    command: str = "leanconv.detect.fit(...)",
) -> DetectRun | None:
    """Train a detector on the train part of `data`, and evaluate it once, at the end, on the val part.

    Args:
        detector, backbone, method, where, exclude, init, pretrained: as for `leanconv.detect.build`.
        data: photos with labelled objects, or their folder.
        out: the run's folder: settings, losses of each epoch, a checkpoint, the detector, the result and a page. A finished
            run of the same settings there is read back.
        config: settings, or the name of a recipe of `leanconv.detect.recipes`.
        build: what else `leanconv.detect.create_detector` takes; `config` has the sizes of the photos.
        resume: continue the unfinished run in `out`.
        progress: show the epochs on standard error; tell: called with other lines about what is done.
        device, devices: where to train, and in how many processes.
        command: what the page says that it was made by.

    Returns:
        the result; None in all processes of a run but the first.

    Raises:
        SettingError: an unknown detector, network or setting, or a folder that holds another run.
        DataError: the photos cannot be used.
        RunError: training failed.
    """
    photos = data if isinstance(data, DetectionData) else open_detection(Path(data))
    chosen = config if isinstance(config, DetectConfig) else recipe_of(config)
    _check_build(build or {})
    globs = (globs_only(where), globs_only(exclude, "exclude"))
    job = DetectJob(detector, backbone, method, photos, chosen, *globs, init, pretrained, dict(build or {}))
    folder = Path(out).expanduser()
    summary = run(job, folder, resume=resume, progress=progress, tell=tell, accelerator=device, devices=devices)
    if not leads():
        return None
    found = DetectRun(summary, job.identity(), folder, photos.name, command)
    found.report(folder / "report.html")
    return found


def _check_build(build: Mapping[str, Any]) -> None:
    """Raise SettingError for a setting that another argument of `fit` has, and that would have no effect."""
    for name, value in build.items():
        if name in OWNERS:
            raise SettingError(f"{name}={value!r} is not for --set (build=); give {OWNERS[name]}")


def evaluate(
    detectors: Detectors,
    data: Photos,
    part: Part = "val",
    *,
    by: Literal["masks", "boxes", "none"] | None = None,
    edges: Sequence[float] = EDGES,
    precision: str = "fp32",
    device: str = "auto",
    threads: int | None = None,
    tell: Tell = silent,
    together: bool = False,
    command: str = "leanconv.detect.evaluate(...)",
) -> Precision:
    """COCO's average precision and recall of detectors, on all photos and by how much the objects of a photo overlap.

    Occlusion ratio of a photo: the share of its instances' area that another instance covers too.

    Args:
        detectors: folders that a run was saved in, or one of them, or detectors by name.
        data: photos with labelled objects, or their folder.
        by: occlusion by masks or by boxes, or "none"; None takes masks where the data has some that can overlap. Masks of
            visible pixels, such as COCO's, hide occlusion; a warning says so. Boxes do not depend on what is visible.
        edges: where bins of the occlusion ratio begin.
        precision: "bf16" computes in bfloat16.
        tell: called with lines about what is done.
        together: the processes that torchrun or srun started share the photos; each of them must make this call.
        command: what the result says that it was made by.

    Raises:
        SettingError: edges or a kind of occlusion that the photos cannot be divided by, or a detector of other classes.
        DataError: the photos cannot be used.
    """
    photos = data if isinstance(data, DetectionData) else open_detection(Path(data), parts=(part,))
    kind = by or ("masks" if photos.has_masks and photos.masks_overlap else "boxes")
    occlusion: Literal["masks", "boxes"] | None = None if kind == "none" else kind
    check_request(photos.part(part), occlusion, tuple(edges))
    named: Mapping[str, str | nn.Module]
    folders = [detectors] if isinstance(detectors, str | os.PathLike) else detectors
    named = folders if isinstance(folders, Mapping) else {str(folder): str(folder) for folder in folders}
    rows = []
    with threads_set(threads), shared_by(together) as shared:
        for name, given in named.items():
            own = (load_detector(given) if isinstance(given, str) else given).to(own_device(device_of(device)))
            seen = for_detector(own, photos).part(part)
            mine = len(range(shared.rank, len(seen), shared.processes))
            with counter(f"{name}: photos", mine, tell) as step:
                scores = evaluate_detector(
                    own, seen, precision=precision, by=occlusion, edges=tuple(edges), progress=step, shared=shared
                )
            for line in scores.unread:
                tell(f"leanconv: counted as without detections: {line}")
            rows.append({"label": name.rstrip("/"), "counts": counts(own), "val": scores.to_json()})
    asked = {"data": photos.name, "part": part, "occlusion": kind, "edges": list(edges), "precision": precision}
    head = {**provenance(command), "kind": "detection", "settings": asked, "n": 1, "seeds": []}
    return Precision({**head, "rows": rows})
