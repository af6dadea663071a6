"""The first layer of a shared convolution, whose input has fewer channels than the shared weight."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from leanconv.core.errors import SettingError
from leanconv.core.operator import LinearOp
from leanconv.core.spec import Pair
from leanconv.ops.depth_shared import ConvBank


class PaddedDepthSharedConv2d(LinearOp):
    """The first layer of a shared convolution, whose input is an image padded with empty channels.

        y = conv(pad(x), bank.weight) + bank.bias = conv(x, bank.weight[:, :in_channels]) + bank.bias

    Empty channels add nothing, so this layer computes only with the first `in_channels` channels of the weight.

    Args:
        bank: the shared weight; this layer owns the bank.

    Shape:
        x: (N, in_channels, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.

    Raises:
        SettingError: the bank has fewer input channels than the image.

    Source: "ShardNet", section 3 ("we pad the input image with empty channels"). The paper multiplies by the empty channels.
    """

    def __init__(self, in_channels: int, bank: ConvBank, stride: int | Pair = 1, padding: int | Pair | str = 0) -> None:
        out_channels, width, *kernel_size = bank.weight.shape
        if in_channels > width:
            raise SettingError(
                f"in_channels={in_channels} must not exceed the {width} channels of the shared weight; take a wider one"
            )
        size: Pair = (kernel_size[0], kernel_size[1])
        super().__init__(in_channels, out_channels, size, stride, padding, 1, 1, bank.bias is not None, "zeros")
        self.bank = bank

    def settings(self) -> dict[str, Any]:
        return {}

    def settings_repr(self) -> str:
        return "owner, padded image"

    @property
    def weight(self) -> Tensor:
        return self.weight_dense()

    @property
    def bias(self) -> Tensor | None:
        return self.bank.bias

    def convolve(self, x: Tensor) -> Tensor:
        return self.conv2d(x, self.weight_dense(), self.bank.bias)

    def weight_dense(self) -> Tensor:
        return self.bank.weight[:, : self.in_channels]

    def bias_dense(self) -> Tensor | None:
        return self.bank.bias
