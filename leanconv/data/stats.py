"""Mean and standard deviation of each channel."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def channel_stats(blocks: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel, in [0, 1], over all pixels of all uint8 blocks (C, ...).

    They come from a histogram of the 256 values, so they are exact whatever the number of pixels. A constant channel
    gets a standard deviation of one grey level, so that normalising stays finite.
    """
    counts = sum((_histogram(block) for block in blocks), start=torch.tensor(0))
    share = counts.double() / counts.sum(dim=1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(dim=1)
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp(min=1 / 255).tolist())


def _histogram(block: Tensor) -> Tensor:
    """How often each of the 256 values occurs in each channel: (C, ...) -> (C, 256)."""
    return torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in block])
