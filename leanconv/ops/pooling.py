"""Average pooling that uses all pixels of a map of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EdgeAvgPool2d(nn.AvgPool2d):
    """The average over windows of 1 or 2 pixels in each direction; at an odd border, over the remaining pixels.

    The module equals ``nn.AvgPool2d(size, ceil_mode=True, count_include_pad=False)``. But this would fix a size that
    torch.export leaves open, because it depends on whether the size is odd. For an open size, zeros are appended instead. The
    averages are divided by the averages of a map of ones with the same zeros: 1, or 1/2 and 1/4 at an odd border, so that
    rounding is equal. (Repeating the last pixels needs no division, but runtimes gather these pixels one by one: this took 6 %
    of SPConv-ResNet50's time in OpenVINO.)

    Args:
        kernel_size: (height, width), each 1 or 2; also the stride.

    Shape:
        x: (N, C, H, W) -> (N, C, H / kernel height, W / kernel width), rounded up.

    >>> EdgeAvgPool2d((2, 2))(torch.zeros(1, 8, 7, 7)).shape
    torch.Size([1, 8, 4, 4])
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
