"""Inputs with moments, for tests of the fits to outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.conversion.moments import collect
from leanconv.core.moments import Moments


def images(channels: int, size: int = 7, n: int = 6, seed: int = 0) -> Tensor:
    """Images whose channels and pixels are alike and have means, as behind a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, channels, size + 2, size + 2, generator=generator, dtype=torch.float64)
    x = F.avg_pool2d(x, 3, 1)
    return (x + x.mean(1, keepdim=True) + 0.2).relu()


def moments_of(conv: nn.Conv2d, x: Tensor) -> Moments:
    """The moments of the inputs that `conv` reads from `x`, at all positions."""
    return collect(conv, [""], [x], positions=None)[""]


def output_error(ours: nn.Module, conv: nn.Module, x: Tensor) -> float:
    """The mean squared difference of the outputs, summed over the channels."""
    with torch.no_grad():
        difference = ours(x) - conv(x)
    return float(difference.square().sum(1).mean())
