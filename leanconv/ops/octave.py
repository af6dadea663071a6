"""Octave convolution: feature maps are pairs, with some of the channels at half the height and width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.core import spec
from leanconv.core.errors import SettingError
from leanconv.ops.pooling import EdgeAvgPool2d

__all__ = ["OctaveConv2d"]

Pair = tuple[Tensor, Tensor | None]


def low_channels(channels: int, alpha: float, name: str = "alpha") -> int:
    """The number of low channels: alpha * channels, rounded.

    Raises:
        SettingError: `alpha` is not a number of at least 0 and below 1, or leaves no high channel.

    >>> low_channels(64, 0.25)
    16
    """
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < 1:
        raise SettingError(f"{name}={alpha!r} must be a number of at least 0 and below 1")
    low = round(alpha * channels)
    if low == channels:
        raise SettingError(f"{name}={alpha!r} leaves no high map of {channels} channels; {1 - 1 / channels:.3g} would")
    return low


class OctaveConv2d(nn.Module):
    """A convolution on pairs of maps (high, low), where the low map has half the height and width.

        high' = conv(high, W_hh) + up(conv(low, W_lh))
        low'  = conv(pool(high), W_hl) + conv(low, W_ll)

    pool is the average over 2x2 pixels; at an odd border, the average over the remaining pixels. up repeats each pixel 2x2
    times and crops the result. All four paths have the stride. There are as many weights and biases as in the dense
    convolution. For alpha_in = alpha_out = a, the MACs are 1 - 0.75 a (2 - a) times the MACs of the dense convolution. With
    both alphas 0, the module equals ``nn.Conv2d``.

    Args:
        alpha_in, alpha_out: the part of the channels that is low; at least 0 and below 1.
        padding: half of the kernel, so that both maps keep their ratio; any padding if both alphas are 0.

    Shape:
        x: (high, low): (N, I - l, H, W) and (N, l, H / 2, W / 2), rounded up; low is None if l = alpha_in * I is 0.
        Returns (high, low) in the same way, with O and alpha_out, and with H and W divided by the stride and rounded up.
        Single images without N are accepted too.

    Raises:
        SettingError: an alpha is out of range, `groups` is not 1, or the padding changes the size by more than the stride.

    Source: Chen et al. 2019, "Drop an Octave", section 3.2. Strided layers are strided convolutions here, so that alpha 0 is
    the ordinary network. At stride 2, the release averages 2x2 pixels and convolves with stride 1, which is another function.
    The bias belongs to the paths from the high map.

    >>> layer = OctaveConv2d(16, 32, 3, padding=1)
    >>> high, low = layer((torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 4, 4)))
    >>> high.shape, low.shape
    (torch.Size([1, 16, 8, 8]), torch.Size([1, 16, 4, 4]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | spec.Pair,
        stride: int | spec.Pair = 1,
        padding: int | spec.Pair | str = 0,
        dilation: int | spec.Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        alpha_in: float = 0.5,
        alpha_out: float = 0.5,
    ) -> None:
        super().__init__()
        self.spec = spec.ConvSpec(
            in_channels,
            out_channels,
            kernel_size,  # type: ignore[arg-type]  # normalised by ConvSpec
            stride,  # type: ignore[arg-type]
            padding,  # type: ignore[arg-type]
            dilation,  # type: ignore[arg-type]
            groups,
            bias,
            padding_mode,
        )
        self.low_in = low_channels(in_channels, alpha_in, "alpha_in")
        self.low_out = low_channels(out_channels, alpha_out, "alpha_out")
        paired = self.low_in or self.low_out
        if paired and groups != 1:
            raise SettingError(f"groups={groups} must be 1: every output channel sees both maps; alpha 0 takes groups")
        if paired and not self.spec.keeps_size:
            raise SettingError(
                f"padding={self.spec.padding} with kernel_size={self.spec.kernel_size} and dilation={self.spec.dilation} "
                "changes the size by more than the stride, so that the sizes of the two maps do not match; padding of "
                "dilation * (kernel_size - 1) / 2 would"
            )
        high_in, high_out = in_channels - self.low_in, out_channels - self.low_out
        self.high_to_high = self._path(high_in, high_out, bias)
        self.high_to_low = self._path(high_in, self.low_out, bias) if self.low_out else None
        self.low_to_high = self._path(self.low_in, high_out, False) if self.low_in else None
        self.low_to_low = self._path(self.low_in, self.low_out, False) if self.low_in and self.low_out else None
        self.pool = EdgeAvgPool2d((2, 2))
        self.reset_parameters()

    def _path(self, in_channels: int, out_channels: int, bias: bool) -> nn.Conv2d:
        settings = self.spec.kwargs() | {"in_channels": in_channels, "out_channels": out_channels, "bias": bias}
        return nn.Conv2d(**settings)

    def reset_parameters(self) -> None:
        """Initialise the weights: normal over the fan out of the dense convolution, as in ResNet. Biases are 0."""
        kh, kw = self.spec.kernel_size
        deviation = (2 * self.spec.groups / (self.spec.out_channels * kh * kw)) ** 0.5
        for path in (self.high_to_high, self.high_to_low, self.low_to_high, self.low_to_low):
            if path is not None:
                nn.init.normal_(path.weight, std=deviation)
                if path.bias is not None:
                    nn.init.zeros_(path.bias)

    def forward(self, x: Pair) -> Pair:
        high, low = x
        if isinstance(high, Tensor) and high.dim() == 3:  # a single image; a proxy of FX has no rank
            pair = self.forward((high.unsqueeze(0), None if low is None else low.unsqueeze(0)))
            return pair[0].squeeze(0), None if pair[1] is None else pair[1].squeeze(0)
        new_high = self.high_to_high(high)
        if self.low_to_high is not None:
            new_high = new_high + _doubled(self.low_to_high(low), new_high.shape[2], new_high.shape[3])
        if self.high_to_low is None:
            return new_high, None
        new_low = self.high_to_low(self.pool(high))
        if self.low_to_low is not None:
            new_low = new_low + self.low_to_low(low)
        return new_high, new_low

    def extra_repr(self) -> str:
        return f"{self.spec}, low channels {self.low_in}->{self.low_out}"


def _doubled(x: Tensor, height: int, width: int) -> Tensor:
    """Each pixel repeated 2x2 times, cropped to (height, width), which may be odd."""
    if isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt):
        # Cutting would make torch.export ask whether the size is odd. Pixel i comes from floor(i * small / large) = i // 2
        return F.interpolate(x, size=(height, width), mode="nearest")
    return F.interpolate(x, scale_factor=2, mode="nearest")[:, :, :height, :width]
