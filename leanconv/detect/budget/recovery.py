"""Recovery: a lean detector learns from its dense detector, block by block and then as a whole."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from leanconv.core.machine import device_of
from leanconv.core.processes import leads
from leanconv.detect.config import DetectConfig
from leanconv.detect.data import DetectionData
from leanconv.detect.train import fit_detector
from leanconv.train.blocks import recover_blocks_
from leanconv.train.folder import RunFolder

BLOCKS = "blocks"
BATCH, PIXELS = 64, 4 * 800 * 1333  # the most photos, and the most pixels of all photos, in a step of a block


class DetectorRecovery(Protocol):
    """A function that trains a lean detector after its conversion."""

    def __call__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        data: DetectionData,
        config: DetectConfig,
        folder: Path,
        *,
        images: Tensor,
        pyramid: bool,
        device: str,
        progress: bool,
    ) -> object:
        """Train `student` in place. A run in `folder` that was stopped continues.

        Args:
            student, teacher: the lean detector and the dense one.
            data: the photos; the val part must not be read.
            config: the settings of the training.
            folder: the folder of the run.
            images: photos of the train part as the backbones get them, (N, 3, H, W).
            pyramid: the pyramid was made lean too.
            device: "auto", "cpu" or "cuda".
            progress: show the progress.
        """
        ...


def recover(
    student: nn.Module,
    teacher: nn.Module,
    data: DetectionData,
    config: DetectConfig,
    folder: str | os.PathLike[str],
    *,
    images: Tensor,
    pyramid: bool = False,
    device: str = "auto",
    progress: bool = True,
    block_steps: int = 200,
) -> None:
    """Train `student`, in place, to do what `teacher` does: first each lean block of the backbone alone, then the whole detector.

    The whole detector is trained with labels and with the feature maps of the teacher (`DetectConfig.distill_weight`). The layers
    of a pyramid have no block around them and only learn in this second part; they are linear, so their fit is the best one
    already. A call that was stopped continues, and gives the same weights.

    Args:
        student, teacher, data, config, folder, images, pyramid, device, progress: as in `DetectorRecovery`.
        block_steps: steps of each block, see `leanconv.train.blocks.recover_blocks_`; 0 leaves the blocks out.

    Raises:
        SettingError: the detectors, the photos, the settings or the folder do not fit each other.
        RunError: training failed; the finished blocks and the last checkpoint are kept.
    """
    root = Path(folder).expanduser()
    if block_steps and len(images) > 1 and not RunFolder(root).checkpoint.exists():
        own, other = (
            detector.get_submodule("backbone.network").to(device_of(device)) for detector in (student, teacher)
        )
        batch = max(2, min(BATCH, PIXELS // (images.shape[2] * images.shape[3])))
        recover_blocks_(
            own, other, images, steps=block_steps, batch_size=batch, seed=config.seed, folder=root / BLOCKS,
            say=_print if progress and leads() else None,
        )  # fmt: skip
        for network in (own, other):
            network.to(torch.device("cpu"))
    fit_detector(
        student,
        data,
        config,
        root,
        resume=True,
        progress=progress,
        accelerator=device,
        teacher=teacher,
        pyramid=pyramid,
    )


def _print(done: int, total: int, text: str) -> None:
    print(f"block {done}/{total}: {text}", file=sys.stderr, flush=True)
