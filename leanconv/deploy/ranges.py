"""Check the images from which an int8 file's ranges are measured."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leanconv.core.errors import DataError, LeanconvWarning, SettingError
from leanconv.core.task import Task

FAR = 10.0  # below 0 or above 1 for a pixel: 255 is as far for usual means and deviations, and noise is not
BATCHES = "give batches (N, C, H, W), such as [images]"
MANY = 0.01  # part of the values that lie as far


class Shown:
    """Calibration images, looked at while they are read.

    Batches come as float32 on the CPU: numpy arrays and other floats are converted, and of pairs (images, labels) only the
    images are taken.

    Args:
        images: batches, (N, C, H, W).
        task: the preparation of the network's images; None if it is unknown.

    Raises:
        SettingError: `images` holds no batches; or, while they are read: a batch has another shape, other channels than the
            first, or whole numbers.
        DataError: while they are read: an image holds NaN or infinity, or, at the end, all images have the same value
            everywhere in each channel.

    >>> task = Task((0.5,), (0.25,), (2, 2))
    >>> [batch.shape for batch in Shown([torch.randn(4, 1, 2, 2)], task)]
    [torch.Size([4, 1, 2, 2])]
    """

    def __init__(self, images: Iterable[Any], task: Task | None) -> None:
        if isinstance(images, str) or not isinstance(images, Iterable):
            raise SettingError(f"images is a {type(images).__name__}; {BATCHES}")
        self.images, self.task = images, task
        self.channels: int | None = None
        self.low, self.high = torch.tensor(torch.inf), torch.tensor(-torch.inf)  # of each channel
        self.values = self.far = 0

    def __iter__(self) -> Iterator[Tensor]:
        for given in self.images:
            batch = _batch(given)
            self._look(batch)
            yield batch
        if torch.equal(self.low, self.high):
            raise DataError(
                "all calibration images are alike, with one value in each channel, so there is no range to measure; give a few "
                "hundred training images"
            )

    def _look(self, batch: Tensor) -> None:
        self.channels = self.channels or batch.shape[1]
        if batch.shape[1] != self.channels:
            raise SettingError(
                f"images come with {self.channels} channels, and then with {batch.shape[1]}; give all as the network takes them"
            )
        if not batch.isfinite().all():
            raise DataError("a calibration image holds NaN or infinity, which has no range; leave it out")
        channels = batch.transpose(0, 1).flatten(1)
        self.low = torch.minimum(self.low, channels.amin(1))
        self.high = torch.maximum(self.high, channels.amax(1))
        if self.task is not None and self.task.channels == len(channels):
            mean, std = (torch.tensor(values)[:, None] for values in (self.task.mean, self.task.std))
            pixels = channels * std + mean
            self.far += int(((pixels < -FAR) | (pixels > 1 + FAR)).sum())
            self.values += pixels.numel()

    def warn(self) -> None:
        """Warn if the images that were read cannot be normalised as the task says."""
        if self.far > MANY * self.values:
            assert self.task is not None
            warnings.warn(
                f"{self.far / self.values:.0%} of the calibration images' values are far outside those of the network's images, "
                f"which are (pixel / 255 - {self.task.mean}) / {self.task.std}, so the int8 file may be useless; normalise the "
                "images as in training",
                LeanconvWarning,
                stacklevel=3,
            )


def _batch(given: Any) -> Tensor:
    """One batch as float32 on the CPU."""
    if isinstance(given, list | tuple) and given and isinstance(given[0], Tensor | np.ndarray) and given[0].ndim == 4:
        given = given[0]  # with labels, as loaders give them
    if isinstance(given, np.ndarray):
        given = torch.from_numpy(np.ascontiguousarray(given))
    if not isinstance(given, Tensor):
        raise SettingError(f"images holds a {type(given).__name__}; {BATCHES}")
    if given.ndim != 4 or not len(given):
        raise SettingError(f"images come as {tuple(given.shape)}; {BATCHES}")
    if not given.is_floating_point():
        raise SettingError(f"images come as {given.dtype}; give them as the network takes them, normalised floats")
    return given.detach().cpu().float()
