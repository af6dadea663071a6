"""One run of a detector: built, trained, saved, and evaluated once at the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from leanconv.conversion.apply import convert
from leanconv.conversion.methods import label_of
from leanconv.conversion.plan import Where
from leanconv.conversion.useful import useful_plan
from leanconv.core.atomic import write_json
from leanconv.core.errors import LeanconvWarning
from leanconv.core.machine import device_of
from leanconv.core.method import Method
from leanconv.core.processes import leads
from leanconv.detect.config import DetectConfig
from leanconv.detect.data import DetectionData
from leanconv.detect.data.records import Part
from leanconv.detect.detector import create_detector
from leanconv.detect.files import save_detector
from leanconv.detect.scoring import check_request, evaluate_detector
from leanconv.detect.train import check_fits, fit_detector
from leanconv.files.target import Network, built, network_digest, network_name, open_target
from leanconv.train.once import CLASS_NAMES, SUMMARY_FILE, once, read_json
from leanconv.train.optimizers import check_parameters
from leanconv.train.run import check_execution

if TYPE_CHECKING:
    from leanconv.conversion.apply import Init

SIZE = (3, 224, 224)  # for plans: which convolutions convert does not depend on the photos
Tell = Callable[[str], None]  # is called with lines about what is done now


def silent(line: str) -> None:
    """Tell nothing."""


def build(
    detector: str,
    backbone: Network,
    *,
    classes: Sequence[str],
    method: Method | None = None,
    where: Where = (),
    exclude: Where = (),
    init: Init = "fresh",
    pretrained: bool = False,
    seed: int = 0,
    **settings: Any,
) -> nn.Module:
    """A detector on a dense or lean backbone.

    Args:
        detector: one of `leanconv.detect.DETECTORS`.
        backbone: a network by name, the folder of one, a network (a copy is taken), or a function that makes one, called
            after seeding.
        classes: the names of what it is to find.
        method, where, exclude, init: convert the backbone first, as `leanconv.plan` and `leanconv.convert` do.
        pretrained: start from published weights, for a backbone by name.
        seed: of the weights that are drawn.
        settings: what else `leanconv.detect.create_detector` takes.

    Raises:
        SettingError: an unknown detector, network or setting, or the method converts nothing.
    """
    torch.manual_seed(seed)
    network = open_target(backbone, pretrained=pretrained) if isinstance(backbone, str) else built(backbone)
    if method is not None:
        network = convert(network, useful_plan(network, method, where or "*", exclude, SIZE), init)
    return create_detector(detector, network, classes=tuple(classes), **settings)


@dataclass(frozen=True)
class DetectJob:
    """Everything that decides what a run gives.

    Args:
        detector, backbone, method, where, exclude, init, pretrained: as for `build`.
        build: what else `create_detector` is given.
    """

    detector: str
    backbone: Network
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
        return part_to_score(self.data)

    @property
    def target(self) -> str:
        """The backbone's name: the text, or its class."""
        return network_name(self.backbone)

    @property
    def label(self) -> str:
        return f"{self.detector}, {self.target}" + ("" if self.method is None else f", {label_of(self.method)}")

    def identity(self) -> dict[str, Any]:
        """The same as values that JSON knows."""
        own = {"network": network_digest(self.backbone)} if isinstance(self.backbone, nn.Module) else {}
        return {
            "detector": self.detector,
            "backbone": self.target,
            **own,
            "method": label_of(self.method),
            "data": self.data.facts() | {CLASS_NAMES: list(self.data.classes)},
            "where": list(self.where),
            "exclude": list(self.exclude),
            "init": self.init,
            "pretrained": self.pretrained,
            "build": {key: list(v) if isinstance(v, tuple) else v for key, v in self.build.items()},
            "train": self.config.identity(),
        }

    def create(self) -> nn.Module:
        """The detector to train, from this job's seed."""
        return build(
            self.detector, self.backbone, classes=self.data.classes, method=self.method, where=self.where,
            exclude=self.exclude, init=self.init, pretrained=self.pretrained, seed=self.config.seed, **self.build,
        )  # fmt: skip


def run(
    job: DetectJob, folder: Path, *, resume: bool = True, progress: bool = True, tell: Tell = silent, **device: Any
) -> dict[str, Any]:
    """Train, save and evaluate once; a finished run of the same identity is read back, an unfinished one continued.

    Returns:
        its summary: counts, what training gave, and scores on the val part, or on the train part where there is no other;
        {} in all processes of a run but the first.

    Raises:
        SettingError: the folder holds another run, or an unfinished one and `resume` is not set.
        RunError: training failed.
    """
    device["devices"] = check_execution(job.config, device.get("accelerator", "auto"), device.get("devices"))
    detector = job.create()  # before the folder is there: a mistake leaves nothing behind
    check_parameters(detector, job.config)
    check_fits(detector, job.data)
    job.data.part("train")
    check_part(job.data)

    def work() -> dict[str, Any]:
        fit_detector(detector, job.data, job.config, folder, resume=True, progress=progress, **device)
        return _conclude(job, folder, detector, device.get("accelerator", "auto"), tell) if leads() else {}

    return once(folder, job.identity(), work, resume=resume, scores="val")


def part_to_score(data: DetectionData) -> Part:
    """The part of the data on which detectors are evaluated: val, or train if val has no object."""
    return "val" if any(photo.objects for photo in data.val) else "train"


def check_part(data: DetectionData) -> None:
    """Warn if detectors are evaluated on the photos on which they train, because val has no object.

    Raises:
        DataError: no photo has an object.
    """
    part = part_to_score(data)
    check_request(data.part(part))
    if part == "train" and leads():
        warnings.warn(
            f"val of {data.name} has no object to score ({len(data.val)} photos; crowd regions do not count): the detector "
            "is evaluated on the train part, on which it trains",
            LeanconvWarning,
            stacklevel=3,
        )


def counts(detector: nn.Module) -> dict[str, int]:
    """Parameters of the detector and of its backbone without the pyramid, each shared tensor once."""
    body = cast(nn.Module, cast(nn.Module, detector.backbone).body)
    return {
        "params": sum(p.numel() for p in detector.parameters()),
        "backbone_params": sum(p.numel() for p in body.parameters()),
    }


def _conclude(job: DetectJob, folder: Path, detector: nn.Module, device: str, tell: Tell) -> dict[str, Any]:
    detector.cpu().eval()
    save_detector(detector, folder)
    trained = read_json(folder / SUMMARY_FILE)
    part = job.part
    photos = job.data.part(part)
    tell(f"evaluating on {len(photos)} photos of the {part} part")
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
