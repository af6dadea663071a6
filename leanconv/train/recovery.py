"""Recovery: a lean network learns from its dense network, block by block and then as a whole."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import nn

from leanconv.core.processes import leads
from leanconv.data import ImageData
from leanconv.train.blocks import recover_blocks_
from leanconv.train.config import TrainConfig
from leanconv.train.folder import RunFolder
from leanconv.train.prepared import parts_of, some_batches, task_on
from leanconv.train.run import FitResult, fit

BLOCKS = "blocks"


def recover(
    student: nn.Module,
    teacher: nn.Module,
    data: ImageData,
    config: TrainConfig,
    folder: str | os.PathLike[str],
    *,
    progress: bool = True,
    block_steps: int = 200,
    block_images: int = 1024,
    block_inputs: Literal["teacher", "student"] = "teacher",
) -> FitResult:
    """Train `student`, in place, to do what `teacher` does: first each block alone, then the whole by distillation.

    The blocks learn on images of the train part, without augmentation and without those held out for validation. All images are
    normalised as in the teacher's training. A call that was stopped continues, and gives the same weights.

    Args:
        student: the lean network, converted from `teacher`.
        teacher: the dense network; it is not changed.
        data: the images; the test part is not read.
        config: the settings of the distillation, as in `leanconv.train.fit`.
        folder: the run's folder; the blocks are kept in its folder "blocks".
        progress: show the progress on standard error.
        block_steps, block_images, block_inputs: of `leanconv.train.blocks.recover_blocks_`; block_steps=0 leaves it out.

    Raises:
        SettingError: the networks, the images, the settings or the folder do not fit each other.
        RunError: training failed; the finished blocks and the last checkpoint are kept.
    """
    root = Path(folder).expanduser()
    task = task_on(teacher, data)
    if not data.prepared:
        data = replace(data, mean=task.mean, std=task.std)
    tells = progress and leads()
    if block_steps and not RunFolder(root).checkpoint.exists():
        (images,) = some_batches(parts_of(data, config)[0], data, task, block_images, seed=config.seed)
        learned = recover_blocks_(
            student, teacher, images, steps=block_steps, inputs=block_inputs, seed=config.seed, folder=root / BLOCKS,
            say=_print if tells else None,
        )  # fmt: skip
        if not learned and tells:
            print("no block learns alone: none has the same input and output sizes as in the teacher", file=sys.stderr)
    return fit(student, data, config, root, resume=True, progress=progress, teacher=teacher)


def _print(done: int, total: int, text: str) -> None:
    print(f"block {done}/{total}: {text}", file=sys.stderr, flush=True)
