"""Train a detector from the first step, or resume a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from leanconv.core.errors import SettingError
from leanconv.core.processes import started
from leanconv.detect.classes import for_detector
from leanconv.detect.config import DetectConfig
from leanconv.detect.data import DetectionData, Photo
from leanconv.detect.detector import describe_detector, set_settings
from leanconv.detect.scoring import has_masks
from leanconv.train.caller import undisturbed
from leanconv.train.folder import TEACHER, RunFolder
from leanconv.train.optimizers import check_parameters
from leanconv.train.run import FitResult, check_execution, concluded

if TYPE_CHECKING:
    from leanconv.detect.distill import MapsDistillation
    from leanconv.train.loop import Work


class Unread:
    """Collects photos that could not be read. Each is printed once.

    Args:
        say: print them on standard error.
    """

    def __init__(self, say: bool) -> None:
        self.say = say
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)
            if self.say:
                print(f"leanconv: left out: {line}", file=sys.stderr, flush=True)


def fit_detector(
    detector: nn.Module,
    data: DetectionData,
    config: DetectConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: bool = True,
    accelerator: str = "auto",
    devices: int | str | None = None,
    teacher: nn.Module | None = None,
    pyramid: bool = False,
) -> FitResult:
    """Train `detector` in place on the train part of `data`. The val part is never read.

    After training, `detector` has the weights of the last epoch, and resizes photos as `config` says. A photo that cannot be read
    is left out of its batch and named. summary.json lists these photos (with several processes: those of the first process).

    Args:
        detector: built by `create_detector`.
        data: from `open_detection`.
        config: the settings.
        out: the folder of the run, see `leanconv.train.fit`.
        resume, progress, accelerator, devices: see `leanconv.train.fit`.
        teacher: a trained detector whose feature maps `detector` learns, see `leanconv.detect.distill`. It is not changed, and no
            file holds it; config.yaml holds a hash of its weights.
        pyramid: learn the levels of the teacher's pyramid too.

    Raises:
        SettingError: detector and data have different classes, or the detector learns masks and the data has none; or the
            teacher has other feature maps; or a setting is for a teacher, and there is none.
        FileError, RunError, KeyboardInterrupt: see `leanconv.train.fit`.
    """
    devices = check_execution(config, accelerator, devices)
    check_parameters(detector, config)
    check_fits(detector, data)
    if teacher is None and config.distill_weight != DetectConfig().distill_weight:
        raise SettingError(f"distill_weight={config.distill_weight:g} needs a teacher; give teacher=")
    data = for_detector(detector, data, whole=True)
    with undisturbed(accelerator, alone=devices == 1 and started() is None):
        from leanconv.detect.distill import MapsDistillation
        from leanconv.train.loop import train_loop

        distillation = None if teacher is None else MapsDistillation(teacher, detector, pyramid)
        resize_(detector, config)
        photos = data.part("train")
        folder = RunFolder(out)
        taught = {} if distillation is None else {TEACHER: distillation.digest}
        checkpoint = folder.open(config, data.name, resume, data.classes, more=taught)
        unread = Unread(progress)
        with nullcontext() if distillation is None else distillation.watching(detector):
            history = train_loop(
                detector, partial(_work, detector, photos, config, unread, distillation), config, folder, checkpoint,
                progress=progress, accelerator=accelerator, devices=devices,
            )  # fmt: skip
        return concluded(folder, checkpoint, history, "last", unread=unread.lines)


def check_fits(detector: nn.Module, data: DetectionData) -> None:
    """Raise SettingError if detector and data have different classes, or if the detector learns masks and the data has none."""
    describe_detector(detector)
    for_detector(detector, data, whole=True)
    if has_masks(detector) and not data.has_masks:
        raise SettingError(
            f"{data.name} has objects without a mask, and this detector learns masks; take a detector without masks"
        )


def resize_(detector: nn.Module, config: DetectConfig) -> None:
    """Let `detector` resize photos to the sizes in `config`, in place."""
    detector.transform.min_size, detector.transform.max_size = config.min_size, config.max_size  # type: ignore[union-attr]
    set_settings(detector, min_size=list(config.min_size), max_size=config.max_size)


def _work(
    detector: nn.Module,
    photos: Sequence[Photo],
    config: DetectConfig,
    unread: Unread,
    distillation: MapsDistillation | None,
) -> Work:
    from leanconv.detect.feed import Feed
    from leanconv.detect.module import DetectModule
    from leanconv.train.loop import Work

    module = DetectModule(detector, config, unread.lines, distillation)
    return Work(module, Feed(photos, config, has_masks(detector), unread))
