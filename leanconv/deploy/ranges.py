"""Check the images from which an int8 file's ranges are measured."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from leanconv.core.errors import DataError, LeanconvWarning, SettingError
from leanconv.core.task import Task

FAR = 10.0  # below 0 or above 1 for a pixel: 255 is as far for usual means and deviations, and noise is not
MANY = 0.01  # part of the values that lie as far


class Shown:
    """Calibration images, looked at while they are read.

    Args:
        images: batches, (N, C, H, W).
        task: the preparation of the network's images; None if it is unknown.

    Raises:
        SettingError: while they are read: a batch has another shape.
        DataError: while they are read: an image holds NaN or infinity, or, at the end, all images have the same value
            everywhere in each channel.

    >>> task = Task((0.5,), (0.25,), (2, 2))
    >>> [batch.shape for batch in Shown([torch.randn(4, 1, 2, 2)], task)]
    [torch.Size([4, 1, 2, 2])]
    """

    def __init__(self, images: Iterable[Tensor], task: Task | None) -> None:
        self.images, self.task = images, task
        self.low, self.high = torch.tensor(torch.inf), torch.tensor(-torch.inf)  # of each channel
        self.values = self.far = 0

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.images:
            self._look(batch)
            yield batch
        if torch.equal(self.low, self.high):
            raise DataError(
                "all calibration images are alike, with one value in each channel, so there is no range to measure; give a few "
                "hundred training images"
            )

    def _look(self, batch: Tensor) -> None:
        if batch.ndim != 4:
            raise SettingError(f"images come as {tuple(batch.shape)}; give batches (N, C, H, W), such as [images]")
        if not batch.isfinite().all():
            raise DataError("a calibration image holds NaN or infinity, which has no range; leave it out")
        channels = batch.detach().transpose(0, 1).flatten(1).float()
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
