"""Heterogeneous kernels: each filter has k x k taps on a part of the channels and 1x1 taps on the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.layout import is_channels_last
from leanconv.core.method import Method
from leanconv.core.moments import Moments
from leanconv.core.operator import LinearOp
from leanconv.core.settings import check_int
from leanconv.core.spec import ConvSpec, Pair, aligned_blocks, blocks_error
from leanconv.ops.least_squares import Stats, each, fill_bias, metric_of, on_taps, tap_indices

__all__ = ["Het", "HetConv2d"]

# Up to this many products of an input and an output channel of a group, the dense convolution trains faster, although it
# multiplies by zeros. Forward and backward of 32 maps in float32 channels_last on an AVX2 core, dense and apart: 24 -> 64
# channels with part=2 39 and 52 ms, 64 -> 64 with part=2 24 and 26 ms, 64 -> 256 with part=4 87 and 68 ms.
MERGE_UP_TO = 64 * 64


def het_error(part: int, spec: ConvSpec) -> str | None:
    """The reason why the filters of `spec` cannot be k x k on one channel of `part`; None if they can."""
    if spec.pointwise:
        return "a 1x1 convolution has no other taps to leave out"
    return blocks_error(part, spec.in_channels, spec.out_channels, spec.groups, setting="part")


def _weights(part: int, spec: ConvSpec) -> tuple[int, int]:
    """The numbers of weights of the k x k and of the 1x1 kernels: O I / G (k / P) and O I / G (1 - 1 / P), k = kh kw."""
    channels = spec.in_channels // spec.groups
    return spec.out_channels * spec.fan_in // part, spec.out_channels * (channels - channels // part)


class HetConv2d(LinearOp):
    """A convolution whose filters are k x k on every P-th channel and 1x1 on the others, shifted from filter to filter.

        y[:, f] = sum over c of conv(x[:, c], W[f, c]),   W[f, c] is k x k where (c - f) mod P == 0 and 1x1 elsewhere

    A 1x1 kernel is at the middle tap of the k x k kernels. The channels with one remainder modulo P are a class. The k x k
    kernels are a grouped convolution over the classes. The 1x1 kernels are a grouped convolution in which each class sees
    all other classes.

    Args:
        part: P; divides in_channels / groups and out_channels / groups. c and f count within a group.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.
        weight: (O, I / (P G), kh, kw); point: (O, I / G (1 - 1 / P), 1, 1), None for P = 1; in both, the filters of a group
        are in the order of their class. bias: (O).

    Raises:
        SettingError: `part` does not divide a number of channels, or the kernel is 1x1.

    Source: Singh et al. 2019, "HetConv: Heterogeneous Kernel-Based Convolutions for Deep CNNs", section 3. The reordering of
    the channels costs time that the MACs do not show.

    >>> layer = HetConv2d(16, 32, 3, padding=1, part=4)
    >>> layer.weight.shape, layer.point.shape
    (torch.Size([32, 4, 3, 3]), torch.Size([32, 12, 1, 1]))
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
        part: int = 4,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        check_int("part", part)
        error = het_error(part, self.spec)
        if error:
            raise SettingError(error)
        self.part = part
        width = in_channels // (groups * part)
        self.weight = nn.Parameter(torch.empty(out_channels, width, *self.kernel_size))
        self.point = nn.Parameter(torch.empty(out_channels, width * (part - 1), 1, 1)) if part > 1 else None
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights: normal, with variance 2 / (weights per input channel), as in ResNet. The bias is 0."""
        deviation = (2 * self.in_channels / sum(_weights(self.part, self.spec))) ** 0.5
        nn.init.normal_(self.weight, std=deviation)
        if self.point is not None:
            nn.init.normal_(self.point, std=deviation)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def settings(self) -> dict[str, Any]:
        return {"part": self.part}

    def settings_repr(self) -> str:
        return f"part={self.part}"

    def convolve(self, x: Tensor) -> Tensor:
        if self.training and self.point is not None:
            return self._trained(x, self.point)
        classes = self.groups * self.part
        bias = self.bias
        if bias is not None:
            bias = bias.unflatten(0, (self.groups, -1, self.part)).transpose(1, 2).flatten()
        y = self.conv2d(self._by_class(x).flatten(1, 3), self.weight, bias, classes)
        if self.point is not None:
            y = y + F.conv2d(self._others(self._at_middle_tap(x)), self.point, None, self.stride, groups=classes)
        return (
            y.unflatten(1, (self.groups, self.part, -1)).transpose(2, 3).flatten(1, 3)
        )  # in the order of the channels

    def _trained(self, x: Tensor, point: Tensor) -> Tensor:
        """The convolution in training: without copies of the other classes, and in the layout of the input.

        The 1x1 kernels are one convolution over all channels, with zeros at the own class.
        """
        if self.in_channels // self.groups * self.out_channels // self.groups <= MERGE_UP_TO:
            return self.conv2d(x, self.weight_dense(), self.bias, self.groups)
        y = self.conv2d(self._reordered(x, (self.groups, -1, self.part)), self.weight, None, self.groups * self.part)
        own = point.new_zeros(self.out_channels, self.weight.shape[1], 1, 1)
        points = self._spread(own, point)
        cheap = F.conv2d(self._at_middle_tap(x), points, self.bias, self.stride, groups=self.groups)
        return self._reordered(y, (self.groups, self.part, -1)) + cheap

    def _reordered(self, x: Tensor, sizes: tuple[int, int, int]) -> Tensor:
        """The channels as a table of `sizes`, with the last two directions exchanged; a copy in the layout of `x`."""
        if is_channels_last(x):
            return x.permute(0, 2, 3, 1).unflatten(3, sizes).transpose(4, 5).flatten(3).permute(0, 3, 1, 2)
        return x.unflatten(1, sizes).transpose(2, 3).flatten(1, 3)

    def _by_class(self, x: Tensor) -> Tensor:
        """The channels of each group, sorted by class: (N, G, P, I / (P G), H, W)."""
        return x.unflatten(1, (self.groups, -1, self.part)).transpose(2, 3)

    def _others(self, x: Tensor) -> Tensor:
        """For each class of each group, the channels of all other classes, the next class first: (N, I (P - 1), H, W)."""
        x = self._by_class(x)
        parts = []
        for p in range(self.part):
            if p < self.part - 1:
                parts.append(x[:, :, p + 1 :])
            if p:
                parts.append(x[:, :, :p])
        return torch.cat(parts, 2).flatten(1, 3)

    def _middle(self) -> Pair:
        """The (row, column) of the middle tap, where the 1x1 kernels are."""
        return (self.kernel_size[0] - 1) // 2, (self.kernel_size[1] - 1) // 2

    def _at_middle_tap(self, x: Tensor) -> Tensor:
        """The pixels under the middle tap; `x` itself if the padding is half of the kernel."""
        (left, right, top, bottom), (dh, dw), (kh, kw) = self.spec.pads, self.dilation, self.kernel_size
        row, column = self._middle()
        before = (dw * column, dw * (kw - 1 - column), dh * row, dh * (kh - 1 - row))
        if self.padding_mode != "zeros" and before != self.spec.pads:
            x = F.pad(x, self.spec.pads, mode=self.padding_mode)
            left = right = top = bottom = 0
        moved = (left - before[0], right - before[1], top - before[2], bottom - before[3])
        return F.pad(x, moved) if any(moved) else x

    def weight_dense(self) -> Tensor:
        if self.point is None:
            return self._spread(self.weight, None)
        (row, column), (kh, kw) = self._middle(), self.kernel_size
        return self._spread(self.weight, F.pad(self.point, (column, kw - 1 - column, row, kh - 1 - row)))

    def _spread(self, own: Tensor, others: Tensor | None) -> Tensor:
        """The filters in the order of the channels, (O, I / G, h, w), from those on their own class and those on the others."""
        g, p = self.groups, self.part
        own = own.unflatten(0, (g, p, -1))  # (G, P, o, i, h, w)
        dense = []
        for cls in range(p):
            blocks = {cls: own[:, cls]}
            if others is not None:
                rest = others.unflatten(0, (g, p, -1))[:, cls].unflatten(2, (p - 1, -1))  # (G, o, P - 1, i, h, w)
                blocks |= {(cls + 1 + other) % p: rest[:, :, other] for other in range(p - 1)}
            dense.append(torch.stack([blocks[c] for c in range(p)], 3))  # (G, o, i, P, h, w)
        return torch.stack(dense, 2).flatten(3, 4).flatten(0, 2)  # (G, o, P, i P, h, w)

    def bias_dense(self) -> Tensor | None:
        return self.bias

    def rescale_(self, scale: Tensor) -> bool:
        by_class = scale.unflatten(0, (self.groups, -1, self.part)).transpose(1, 2).reshape(-1, 1, 1, 1)
        for kernels in (self.weight, self.point):
            if kernels is not None:
                kernels.mul_(by_class)
        return True


@dataclass(frozen=True)
class Het(Method):
    """Heterogeneous kernels (HetConv).

    With k = kh kw: parameters (k / P + 1 - 1 / P) I O / G, and O for the bias. MACs (k / P + 1 - 1 / P) I O / G for each
    output position.

    Args:
        part: P; each filter has a k x k kernel on every P-th channel, and 1x1 kernels on the others.

    Source: Singh et al. 2019.
    """

    part: int = 4

    def __post_init__(self) -> None:
        check_int("part", self.part)

    @classmethod
    def grid(cls, specs: Sequence[ConvSpec], align: int) -> Sequence[Method]:
        return [cls(part) for part in (2, 4)]

    def aligned(self, spec: ConvSpec, align: int) -> Method | str:
        part = aligned_blocks(spec, align, self.part, "part")
        return part if isinstance(part, str) else Het(part)

    def reject(self, spec: ConvSpec) -> str | None:
        return het_error(self.part, spec)

    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        return [HetConv2d(**spec.kwargs(), part=self.part) for spec in specs]

    def params(self, specs: Sequence[ConvSpec]) -> int:
        return sum(sum(_weights(self.part, s)) + s.out_channels * s.bias for s in specs)

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        return sum(_weights(self.part, specs[index])) * out_hw[0] * out_hw[1]

    def degenerate(self, spec: ConvSpec) -> Method | None:
        return Het(part=1)

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Stats = None) -> None:
        """Copy the dense weight at the taps that the filters have: the nearest in the Frobenius norm.

        With `stats`, the filters of a class are (W S)[:, taps] S[taps, taps]⁻¹, with the taps that the class has.
        """
        for module, conv, moments in zip(modules, convs, each(stats, convs), strict=True):
            assert isinstance(module, HetConv2d)
            if moments is not None:
                _fit_to_outputs(module, conv, moments)
                continue
            g, p = module.groups, module.part
            row, column = module._middle()
            dense = conv.weight.unflatten(0, (g, -1, p)).unflatten(3, (-1, p))  # (G, o, P, i, P, kh, kw)
            for cls in range(p):
                own = dense[:, :, cls, :, cls]
                module.weight.unflatten(0, (g, p, -1))[:, cls].copy_(own)
                if module.point is not None:
                    others = [dense[:, :, cls, :, (cls + 1 + other) % p, row, column] for other in range(p - 1)]
                    module.point.unflatten(0, (g, p, -1))[:, cls, :, :, 0, 0].copy_(torch.cat(others, 2))
            if module.bias is not None and conv.bias is not None:
                module.bias.copy_(conv.bias)


def _fit_to_outputs(module: HetConv2d, conv: nn.Conv2d, moments: Moments) -> None:
    """Set the filters of each class by least squares on the taps that they have."""
    p, kernel, (row, column) = module.part, module.kernel_size[0] * module.kernel_size[1], module._middle()
    device = conv.weight.device
    middle = torch.tensor([row * module.kernel_size[1] + column], device=device)
    channels = torch.arange(module.in_channels // module.groups, device=device)
    for g, (weight, metric) in enumerate(zip(*metric_of(conv, moments), strict=True)):
        for cls in range(p):
            own = tap_indices(channels[cls::p], torch.arange(kernel, device=device), kernel)
            others = [tap_indices(channels[(cls + 1 + other) % p :: p], middle, kernel) for other in range(p - 1)]
            found = on_taps(weight[cls::p], metric, torch.cat([own, *others]))
            kernels = module.weight.unflatten(0, (module.groups, p, -1))[g, cls]
            kernels.copy_(found[:, : len(own)].reshape_as(kernels))
            if module.point is not None:
                module.point.unflatten(0, (module.groups, p, -1))[g, cls, :, :, 0, 0].copy_(found[:, len(own) :])
    fill_bias(module, conv, module.weight_dense(), moments)
