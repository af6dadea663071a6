"""Filter summary: the filters of a layer are overlapping windows of one vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core.method import Method
from leanconv.core.moments import Moments
from leanconv.core.operator import LinearOp
from leanconv.core.settings import check_share
from leanconv.core.spec import ConvSpec, Pair
from leanconv.core.weight import WeightView
from leanconv.ops.least_squares import Stats, descended, each, fill_bias, metric_of

__all__ = ["FilterSummary", "FilterSummaryConv2d"]


def window_stride(ratio: float, spec: ConvSpec) -> int:
    """The step s from one filter's window to the next: the whole number for which O windows of F span about ratio O F.

    >>> window_stride(0.25, ConvSpec(16, 32, 3))
    33
    """
    filters, length = spec.out_channels, spec.fan_in
    if filters == 1:
        return 1
    return min(max(round((ratio * filters - 1) * length / (filters - 1)), 1), length)


class FilterSummaryConv2d(LinearOp):
    """A convolution whose filters are overlapping windows of one vector.

        W[f] = summary[f s : f s + F] as (I / G, kh, kw),   F = kh kw I / G,   len(summary) = F + (O - 1) s

    so that the last window ends at the end of the summary. The layer runs as an ordinary convolution, with the MACs of the
    dense layer.

    Args:
        ratio: length of the summary divided by the O F weights; rounded, because s is a whole number of at least 1.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.
        summary: (F + (O - 1) s); bias: (O).

    Raises:
        SettingError: `ratio` is not above 0 and at most 1.

    Source: Yang et al. 2019, "FSNet: Compression of Deep Convolutional Neural Networks by Filter Summary". Unverified: this
    module was built from the abstract ("the convolutional filters are located in FS as overlapping 1D segments"), without
    the paper's formulas and without code for a comparison. The order of the weights in a window, the whole step s and the
    initialisation are our choices. The abstract also claims acceleration, and does not say how it is reached. This module saves
    parameters only: it lacks a way to reuse products where windows overlap.

    >>> layer = FilterSummaryConv2d(16, 32, 3, bias=False)
    >>> layer.summary.numel(), layer.weight.numel()
    (1167, 4608)
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
        ratio: float = 0.25,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        check_share("ratio", ratio)
        self.window_stride = window_stride(ratio, self.spec)
        self.summary = nn.Parameter(torch.empty(self.spec.fan_in + (out_channels - 1) * self.window_stride))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the summary: normal, with the variance of Kaiming normal over the fan out. The bias is 0."""
        out, _, kh, kw = self.spec.weight_shape
        nn.init.normal_(self.summary, std=(2 * self.groups / (out * kh * kw)) ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def settings(self) -> dict[str, Any]:
        return {"window_stride": self.window_stride}

    def settings_repr(self) -> str:
        return f"window_stride={self.window_stride} of {self.spec.fan_in}"

    @property
    def weight(self) -> WeightView:
        """The dense weight, for code that reads it."""
        return WeightView(self, self.summary)

    def convolve(self, x: Tensor) -> Tensor:
        return self.conv2d(x, self.weight_dense(), self.bias, self.groups)

    def weight_dense(self) -> Tensor:
        windows = self.summary.unfold(0, self.spec.fan_in, self.window_stride)
        # copied: the windows overlap in memory, which a convolution may not support
        return windows.contiguous().view(self.spec.weight_shape)

    def bias_dense(self) -> Tensor | None:
        return self.bias


@dataclass(frozen=True)
class FilterSummary(Method):
    """Filters as overlapping windows of one vector (FSNet, unverified: see `FilterSummaryConv2d`).

    A filter has F = kh kw I / G weights, and s is the step from one window to the next. Parameters F + (O - 1) s, about
    ratio O F, and O for the bias. MACs are those of the dense layer.

    Args:
        ratio: length of the vector divided by the number of the layer's weights; above 0 and at most 1.

    Source: Yang et al. 2019.
    """

    ratio: float = 0.25

    def __post_init__(self) -> None:
        check_share("ratio", self.ratio)

    @classmethod
    def grid(cls, specs: Sequence[ConvSpec], align: int) -> Sequence[Method]:
        return [cls(ratio) for ratio in (0.5, 0.25)]

    def reject(self, spec: ConvSpec) -> str | None:
        return None

    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        return [FilterSummaryConv2d(**spec.kwargs(), ratio=self.ratio) for spec in specs]

    def params(self, specs: Sequence[ConvSpec]) -> int:
        return sum(
            s.fan_in + (s.out_channels - 1) * window_stride(self.ratio, s) + s.out_channels * s.bias for s in specs
        )

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        return specs[index].macs(out_hw)

    def degenerate(self, spec: ConvSpec) -> Method | None:
        return FilterSummary(ratio=1.0)

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Stats = None) -> None:
        """Set each element to the mean of the dense weights at its places: the nearest in the Frobenius norm.

        With `stats`, the summary is then improved by conjugate gradients on the normal equations of the outputs.
        """
        for module, conv, moments in zip(modules, convs, each(stats, convs), strict=True):
            assert isinstance(module, FilterSummaryConv2d)
            rows = conv.weight.flatten(1)
            total = _at_places(rows, module)
            module.summary.copy_(total / _at_places(torch.ones_like(rows), module))
            if moments is not None:
                module.summary.copy_(_descended(module, conv, moments))
            fill_bias(module, conv, module.weight_dense(), moments)


def _at_places(rows: Tensor, module: FilterSummaryConv2d) -> Tensor:
    """For each element of the summary, the sum of the weights (O, F) at its places."""
    starts = module.window_stride * torch.arange(len(rows), device=rows.device)
    places = (starts[:, None] + torch.arange(rows.shape[1], device=rows.device)).flatten()
    return rows.new_zeros(len(module.summary)).index_add_(0, places, rows.flatten())


def _descended(module: FilterSummaryConv2d, conv: nn.Conv2d, moments: Moments) -> Tensor:
    """The summary that `module` has, improved for the outputs that `moments` give."""
    weight, metric = metric_of(conv, moments)

    def seen(rows: Tensor) -> Tensor:
        return _at_places((rows.view_as(weight) @ metric).flatten(0, 1), module)

    def normal(summary: Tensor) -> Tensor:
        return seen(summary.unfold(0, module.spec.fan_in, module.window_stride).contiguous())

    return descended(module.summary.double(), normal, seen(weight), steps=60)
