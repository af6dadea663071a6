"""Partial convolution: a convolution on the first channels, while the others pass unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.core.affine import Affine, ChannelAffine, conv_of, folded
from leanconv.core.errors import SettingError
from leanconv.core.method import Method
from leanconv.core.operator import Forms, LinearOp
from leanconv.core.settings import check_int, check_share
from leanconv.core.spec import ConvSpec, Pair, aligned_share
from leanconv.ops.least_squares import Stats, each, fill_bias, metric_of, on_taps
from leanconv.ops.split import representative_channels

__all__ = ["PartialConv", "PartialConv2d"]


def partial_error(spec: ConvSpec) -> str | None:
    """The reason why a partial convolution cannot replace a convolution with this spec; None if it can."""
    if spec.in_channels != spec.out_channels:
        return f"{spec.in_channels} channels cannot pass unchanged as {spec.out_channels}; in_channels must be out_channels"
    if spec.groups != 1:
        return f"this convolution has groups={spec.groups}; the channels that a partial convolution convolves must mix"
    if spec.stride != (1, 1):
        return f"stride={spec.stride} changes the size of the map, and channels that pass keep it; the stride must be 1"
    if not spec.keeps_size or spec.centre is None:
        return (
            f"padding={spec.padding} with kernel_size={spec.kernel_size} and dilation={spec.dilation} moves the map against "
            "the channels that pass; padding of dilation * (kernel_size - 1) / 2 would not"
        )
    return None


class PartialConv2d(LinearOp):
    """A convolution of the first C channels; the other channels pass unchanged.

        y = concat(conv(x[:, :C], weight) + bias, x[:, C:])

    with C = ratio * I, rounded, and at least 1. In the paper, a 1x1 convolution follows and mixes the two parts; this is a
    layer of its own in the network.

    Args:
        channels: C, the number of channels that are convolved.

    Shape:
        x: (N, I, H, W) -> (N, I, H, W). weight: (C, C, kh, kw); bias: (C). The dense bias is 0 for the other channels.

    Raises:
        SettingError: `channels` exceeds I, or the convolution changes the channels or the size of the map, or has groups.

    Source: Chen et al. 2023, "Run, Don't Walk: Chasing Higher FLOPS for Faster Neural Networks", section 3.2. Here the
    convolution may have a bias, a dilation and any padding mode. The release has a second computation for inference, which
    writes into its input; an inference form must not, so it is not built here.

    >>> PartialConv2d(16, 16, 3, padding=1, channels=4).weight.shape
    torch.Size([4, 4, 3, 3])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        channels: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        check_int("channels", channels)
        error = partial_error(self.spec)
        if not error and channels > in_channels:
            error = f"channels={channels} must not exceed in_channels={in_channels}"
        if error:
            raise SettingError(error)
        self.channels = channels
        self.weight = nn.Parameter(torch.empty(channels, channels, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weight: Kaiming normal over the fan out, as in ResNet. The bias is 0."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def settings(self) -> dict[str, Any]:
        return {"channels": self.channels}

    def settings_repr(self) -> str:
        return f"{self.channels} of {self.in_channels} channels convolved"

    def convolve(self, x: Tensor) -> Tensor:
        if self.channels == self.in_channels:
            return self.conv2d(x, self.weight, self.bias)
        # cat and the backward pass of split keep channels_last; the gradient of two slices loses it, and adds two maps
        used, rest = x.split((self.channels, self.in_channels - self.channels), 1)
        return torch.cat([self.conv2d(used, self.weight, self.bias), rest], 1)

    def weight_dense(self) -> Tensor:
        rest, (kh, kw) = self.in_channels - self.channels, self.kernel_size
        centre = self.spec.centre
        assert centre is not None
        row, column = centre
        passed = torch.eye(rest, dtype=self.weight.dtype, device=self.weight.device)[:, :, None, None]
        passed = F.pad(passed, (column, kw - 1 - column, row, kh - 1 - row, self.channels, 0))
        return torch.cat([F.pad(self.weight, (0, 0, 0, 0, 0, rest)), passed])

    def bias_dense(self) -> Tensor | None:
        return None if self.bias is None else F.pad(self.bias, (0, self.in_channels - self.channels))

    def shift_(self, shift: Tensor) -> bool:
        return super().shift_(shift[: self.channels])

    def inference_forms(self, affine: Affine | None) -> Forms:
        """The convolution with the norm in its weights, and the norm applied to the channels that pass."""
        return {"partial": lambda: _FoldedPartial(self, affine)}


class _FoldedPartial(nn.Module):
    """A partial convolution and the norm after it; `affine` is in the weights of the convolution."""

    def __init__(self, op: PartialConv2d, affine: Affine | None) -> None:
        super().__init__()
        c, n = op.channels, op.in_channels
        self.parts = (c, n - c)
        self.rest: nn.Module = nn.Identity()
        first = None
        if affine is not None:
            first = Affine(affine.scale[:c], affine.shift[:c])
            self.rest = ChannelAffine(Affine(affine.scale[c:], affine.shift[c:]))
        self.conv = conv_of(op.spec, *folded(op.weight, op.bias, first))

    def forward(self, x: Tensor) -> Tensor:
        used, rest = x.split(self.parts, 1)
        return torch.cat([self.conv(used), self.rest(rest)], 1)


@dataclass(frozen=True)
class PartialConv(Method):
    """Partial convolution (FasterNet).

    With C = ratio I channels that are convolved and k = kh kw: parameters k C**2, and C for the bias. MACs k C**2 for each
    output position, which is ratio**2 of the dense layer. A convolution stays dense if it changes the number of channels or
    the size of the map, or has groups.

    Args:
        ratio: the part of the channels that is convolved; above 0 and at most 1. They are the first ones.

    Source: Chen et al. 2023, section 3.2, eq. 2; the paper's ratio is 1/4. The channels that pass cannot be fitted, so a
    trained network needs training afterwards, or an order of its channels in which the last ones nearly pass already.
    """

    ratio: float = 0.25

    def __post_init__(self) -> None:
        check_share("ratio", self.ratio)

    @classmethod
    def grid(cls, specs: Sequence[ConvSpec], align: int) -> Sequence[Method]:
        tried = (cls(ratio=ratio) for ratio in (0.5, 0.25))
        return [method for method in tried if method._channels(specs[0]) % align == 0]

    def aligned(self, spec: ConvSpec, align: int) -> Method | str:
        channels = aligned_share(spec.in_channels, self.ratio, align)
        if channels is None or spec.in_channels % align:
            return f"align={align} divides no part of in_channels={spec.in_channels} and the channels that pass"
        return PartialConv(channels / spec.in_channels)

    def reject(self, spec: ConvSpec) -> str | None:
        return partial_error(spec)

    def _channels(self, spec: ConvSpec) -> int:
        return representative_channels(spec.in_channels, self.ratio, 1)

    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        return [PartialConv2d(**spec.kwargs(), channels=self._channels(spec)) for spec in specs]

    def params(self, specs: Sequence[ConvSpec]) -> int:
        return sum(self._conv(spec).params() for spec in specs)

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        return self._conv(specs[index]).macs(out_hw)

    def _conv(self, spec: ConvSpec) -> ConvSpec:
        """The convolution of the first channels."""
        c = self._channels(spec)
        return ConvSpec(c, c, spec.kernel_size, bias=spec.bias)

    def degenerate(self, spec: ConvSpec) -> Method | None:
        return PartialConv(ratio=1.0)

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Stats = None) -> None:
        """Copy the dense weight among the first channels: the nearest in the Frobenius norm.

        With `stats`, the filters of the first outputs are the least-squares ones on the first channels.
        """
        for module, conv, moments in zip(modules, convs, each(stats, convs), strict=True):
            assert isinstance(module, PartialConv2d)
            fitted = conv.weight[: module.channels, : module.channels]
            if moments is not None:
                weight, metric = metric_of(conv, moments)
                taps = torch.arange(fitted[0].numel(), device=weight.device)
                fitted = on_taps(weight[0, : module.channels], metric[0], taps).view(fitted.shape)
            module.weight.copy_(fitted)
            fill_bias(module, conv, module.weight_dense(), moments)
