"""The moments of a convolution's input, computed in full, for tests of the fits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Moments:
    """E[u u^T] (g, F, F) and E[u] (g, F) of the unfolded input u of each group."""

    second: Tensor
    mean: Tensor


def moments_of(conv: nn.Conv2d, x: Tensor) -> Moments:
    """The moments of the inputs that `conv` reads from `x`; zero padding."""
    u = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)  # (N, I kh kw, positions)
    u = u.transpose(1, 2).flatten(0, 1).unflatten(1, (conv.groups, -1)).transpose(0, 1)  # (g, samples, F)
    return Moments(u.mT @ u / u.shape[1], u.mean(1))


def correlated(channels: int, size: int = 9, n: int = 6) -> Tensor:
    """Smooth maps, after a ReLU, whose channels depend on each other."""
    x = torch.randn(n, channels, size, size, dtype=torch.float64)
    mix = torch.randn(channels, channels, 3, 3, dtype=torch.float64)
    return F.relu(F.conv2d(x, mix, padding=1) / channels + 0.3)


def output_error(ours: nn.Module, conv: nn.Module, x: Tensor) -> float:
    """The mean squared difference of the outputs, summed over the channels."""
    with torch.no_grad():
        difference = ours(x) - conv(x)
    return float(difference.square().sum(1).mean())
