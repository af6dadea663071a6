"""Mean and standard deviation of each channel."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def channel_stats(blocks: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in [0, 1], over all pixels of all uint8 blocks (C, ...).

    Both are computed from a histogram of the 256 values, so they are exact for any number of pixels. A constant channel gets a
    standard deviation of one grey level (1 / 255), so that normalising gives finite values.

    >>> channel_stats([torch.tensor([[0, 255]], dtype=torch.uint8)])
    ((0.5,), (0.5,))
    """
    counts = sum((_histogram(block) for block in blocks), start=torch.tensor(0))
    share = counts.double() / counts.sum(dim=1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(dim=1)
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp(min=1 / 255).tolist())


def _histogram(block: Tensor) -> Tensor:
    """The count of each of the 256 values in each channel: (C, ...) -> (C, 256)."""
    return torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in block])
