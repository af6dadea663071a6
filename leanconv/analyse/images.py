"""The images of an analysis, as the input of networks and as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.notes import task_of
from leanconv.core.settings import check_int
from leanconv.core.task import Task
from leanconv.data import ImageData
from leanconv.deploy.images import image_tensors
from leanconv.train.prepared import some_batches, task_on


@dataclass(frozen=True)
class Images:
    """Images (N, C, H, W) as the networks take them, and the task for which the images were prepared."""

    tensor: Tensor
    task: Task

    def pictures(self) -> np.ndarray:
        """The images as pictures: (N, H, W, 3), or (N, H, W) for one channel, in [0, 1]."""
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.task.mean, self.task.std))
        shown = (self.tensor * std + mean).clamp(0, 1)
        found: np.ndarray = (shown[:, 0] if shown.shape[1] == 1 else shown.permute(0, 2, 3, 1)).numpy()
        return found


def images_for(model: nn.Module, source: ImageData | Tensor | Path | str, count: int = 8, seed: int = 0) -> Images:
    """`count` images as `model` takes them.

    Args:
        model: a network that declares how its images are prepared.
        source: a data set, from whose test part images are drawn without repetition; a folder of photos, of which the first
            are taken; or a tensor (N, C, H, W), which is used unchanged.
        count: the number of images.
        seed: the seed of the draw.

    Raises:
        SettingError: the network and the data set differ in the number of channels; or the tensor holds no images as networks
            take them.
    """
    check_int("count", count)
    if isinstance(source, Tensor):
        check_images(source)
        channels, height, width = source.shape[1:]
        return Images(source, task_of(model, (channels, height, width)))
    if isinstance(source, str | Path):
        task = task_of(model)
        return Images(torch.cat(image_tensors(Path(source).expanduser(), task, count)), task)
    check_channels(model, source)
    task = task_on(model, source)
    return Images(next(some_batches(source.test, source, task, count, seed=seed)), task)


def check_images(images: Tensor) -> None:
    """Raise SettingError unless `images` is a batch (N, C, H, W) of at least one image, in floating-point numbers."""
    shape = tuple(images.shape)
    if images.ndim != 4:
        way_out = "; images[None] makes a batch of one image" if images.ndim == 3 else ""
        raise SettingError(f"images is a tensor {shape} and must be (N, C, H, W){way_out}")
    if not images.numel():
        raise SettingError(f"images is a tensor {shape} and holds no image; give at least one")
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise SettingError(f"images is a tensor of {kind}; give what the networks take: (images / 255 - mean) / std")


def check_channels(model: nn.Module, data: ImageData) -> None:
    """Raise SettingError if the network and the images of `data` differ in the number of channels."""
    found = task_of(model).channels
    if found != data.channels:
        raise SettingError(
            f"the network takes {found} channels and {data.name} has {data.channels}; take the data it was trained on"
        )
