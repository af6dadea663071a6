"""Averages that leave no pixel out, on maps of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EdgeAvgPool2d(nn.AvgPool2d):
    """The average over each window of stride 1 or 2 in each direction; a window at an odd border over what is left.

    It is ``nn.AvgPool2d(size, ceil_mode=True, count_include_pad=False)``. Where torch.export leaves a size open, that
    asks whether the size is odd, and so fixes it. There zeros are appended instead, and the averages are divided by those
    of a map of ones with the same zeros: 1, or 1/2 and 1/4 at an odd border, so that no rounding differs. (Repeating the
    last pixels needs no division; runtimes gather them one by one: that took 6 % of SPConv-ResNet50's time in OpenVINO.)

    Args:
        kernel_size: (height, width), each 1 or 2; the stride too.
    """

    def __init__(self, kernel_size: tuple[int, int]) -> None:
        super().__init__(kernel_size, ceil_mode=True, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        if not any(isinstance(size, torch.SymInt) for size in (x.shape[-2], x.shape[-1])):
            return super().forward(x)
        height, width = self.kernel_size  # type: ignore[misc]

        def padded(maps: Tensor) -> Tensor:
            return F.avg_pool2d(F.pad(maps, (0, width - 1, 0, height - 1)), (height, width))

        return padded(x) / padded(torch.ones_like(x[:1, :1]))
