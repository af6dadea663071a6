"""One run of a detector: built, trained, saved, and evaluated once at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanconv.cli.output import say
from leanconv.cli.train_flags import device_of
from leanconv.conversion.methods import label_of
from leanconv.conversion.useful import useful_plan
from leanconv.core.atomic import write_json
from leanconv.core.method import Method
from leanconv.core.processes import leads
from leanconv.files.target import open_target
from leanconv.train.once import CLASS_NAMES, SUMMARY_FILE, once, read_json

if TYPE_CHECKING:
    from torch import nn

    from leanconv.conversion.apply import Init
    from leanconv.data.problems import OnBad
    from leanconv.detect import DetectConfig, DetectionData
    from leanconv.detect.data.records import Part

SIZE = (3, 224, 224)  # for plans: which convolutions convert does not depend on the photos


@dataclass(frozen=True)
class DetectJob:
    """Everything that decides what a run gives.

    Args:
        detector: its name; backbone: a network by name, or a folder.
        build: what else `create_detector` is given.
    """

    detector: str
    backbone: str
    method: Method | None
    data: DetectionData
    config: DetectConfig
    where: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    init: Init = "fresh"
    pretrained: bool = False
    build: dict[str, Any] = field(default_factory=dict)

    @property
    def part(self) -> Part:
        """What it is evaluated on: val, or train where there is no other."""
        return "val" if any(photo.objects for photo in self.data.val) else "train"

    @property
    def label(self) -> str:
        return f"{self.detector}, {self.backbone}" + ("" if self.method is None else f", {label_of(self.method)}")

    def identity(self) -> dict[str, Any]:
        """The same as values that JSON knows."""
        from leanconv.train.config import EXECUTION

        return {
            "detector": self.detector,
            "backbone": self.backbone,
            "method": label_of(self.method),
            "data": {
                "name": self.data.name,
                "classes": len(self.data.classes),
                CLASS_NAMES: list(self.data.classes),
                "train": len(self.data.train),
            },
            "where": list(self.where),
            "exclude": list(self.exclude),
            "init": self.init,
            "pretrained": self.pretrained,
            "build": {key: list(v) if isinstance(v, tuple) else v for key, v in self.build.items()},
            "train": self.config.model_dump(mode="json", exclude=set(EXECUTION)),
        }

    def create(self) -> nn.Module:
        """The detector to train, from this job's seed."""
        import torch

        from leanconv.conversion.apply import convert
        from leanconv.detect import create_detector

        torch.manual_seed(self.config.seed)
        network = open_target(self.backbone, pretrained=self.pretrained)
        if self.method is not None:
            plan = useful_plan(network, self.method, self.where or "*", self.exclude, SIZE)
            network = convert(network, plan, self.init)
        return create_detector(self.detector, network, classes=self.data.classes, **self.build)


def open_photos(
    folder: Path, on_bad: OnBad = "skip", parts: Sequence[Part] = ("train", "val"), max_pixels: int | None = None
) -> DetectionData:
    """`open_detection`, saying once what was left out."""
    from leanconv.data.encoded import MAX_PIXELS
    from leanconv.detect import open_detection

    data = open_detection(folder, on_bad, parts, MAX_PIXELS if max_pixels is None else max_pixels)
    for line in data.problems.lines():
        say(f"leanconv: left out: {line}")
    return data


def run(job: DetectJob, folder: Path, *, resume: bool = True, progress: bool = True, **device: Any) -> dict[str, Any]:
    """Train, save and evaluate once; a finished run of the same identity is read back, an unfinished one continued.

    Returns:
        its summary: counts, what training gave, and scores on the val part, or on the train part where there is no other.

    Raises:
        SettingError: the folder holds another run, or an unfinished one and `resume` is not set.
        RunError: training failed.
    """
    from leanconv.detect import fit_detector
    from leanconv.detect.evaluate import check_request
    from leanconv.detect.train import check_fits
    from leanconv.train.run import check_execution

    device["devices"] = check_execution(job.config, device.get("accelerator", "auto"), device.get("devices"))
    detector = job.create()  # before the folder is there: a mistake leaves nothing behind
    check_fits(detector, job.data)
    job.data.part("train")
    check_request(job.data.part(job.part))

    def work() -> dict[str, Any]:
        fit_detector(detector, job.data, job.config, folder, resume=True, progress=progress, **device)
        return _conclude(job, folder, detector, device.get("accelerator", "auto")) if leads() else {}

    return once(folder, job.identity(), work, resume=resume, scores="val")


def counts(detector: nn.Module) -> dict[str, int]:
    """Parameters of the detector and of its backbone without the pyramid, each shared tensor once."""
    return {
        "params": sum(p.numel() for p in detector.parameters()),
        "backbone_params": sum(p.numel() for p in detector.backbone.body.parameters()),  # type: ignore[union-attr]
    }


def _conclude(job: DetectJob, folder: Path, detector: nn.Module, device: str) -> dict[str, Any]:
    from leanconv.detect import evaluate_detector, save_detector

    detector.cpu().eval()
    save_detector(detector, folder)
    trained = read_json(folder / SUMMARY_FILE)
    part = job.part
    photos = job.data.part(part)
    say(f"evaluating on {len(photos)} photos of the {part} part")
    detector.to(device_of(device))
    scores = evaluate_detector(detector, photos, precision=job.config.precision)
    summary = {
        "status": "finished",
        "label": job.label,
        "counts": counts(detector),
        "train": trained,
        "problems": job.data.problems.to_json(),
        "val": {"part": part} | scores.to_json(),
    }
    write_json(folder / SUMMARY_FILE, summary)
    return summary
