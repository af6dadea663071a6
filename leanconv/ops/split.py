"""SPConv: a k x k convolution on the representative channels, a 1x1 convolution on the others, and a gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from leanconv.core.affine import Affine
from leanconv.core.channel_form import ChannelForm
from leanconv.core.errors import SettingError
from leanconv.core.method import Method
from leanconv.core.operator import ConvOp, Forms
from leanconv.core.release import NamedLayer, Place
from leanconv.core.settings import check_bool, check_choice, check_int, check_share
from leanconv.core.spec import ConvSpec, Pair, aligned_share, alternatives, divisors
from leanconv.core.weight import WeightView
from leanconv.ops.forms.split import forms
from leanconv.ops.gated_sum import gated_sum
from leanconv.ops.least_squares import Stats, each
from leanconv.ops.normed_sum import can_normed_sum, normed_sum
from leanconv.ops.pooling import EdgeAvgPool2d
from leanconv.ops.split_fit import fit_branches_, fit_weights_

__all__ = ["Split", "SplitConv2d"]

fx.wrap("gated_sum")  # FX does not trace into the call, because it chooses between two backward passes
Representative = Literal["sum", "chain", "full"]
Fusion = bool | Literal["static"]
# Up to this many input channels, one merged k x k convolution trains faster than the grouped and the 1x1 convolution,
# although it multiplies by zeros. Forward and backward in bfloat16 channels_last on an AVX-512 core, 3x3 with I = O, merged
# and apart: 16 channels 5.3 and 11.1 ms, 32 channels 3.5 and 4.9 ms, 64 channels 3.2 and 3.4 ms.
MERGE_UP_TO = 64


def representative_channels(in_channels: int, ratio: float, groups: int) -> int:
    """The number of representative channels: the multiple of `groups` nearest to ratio * in_channels; halves are rounded up.

    There is at least one channel for each group.

    >>> representative_channels(64, 0.5, 2)
    32
    """
    nearest = math.floor(ratio * in_channels / groups + 0.5) * groups
    return min(max(nearest, groups), in_channels // groups * groups)


def fusion_error(fusion: object) -> str | None:
    """The reason why `fusion` is no way to fuse the branches; None if it is one."""
    return (
        None if isinstance(fusion, bool) or fusion == "static" else f"fusion={fusion!r} must be true, false or 'static'"
    )


def split_error(spec: ConvSpec, groups: int) -> str | None:
    """The reason why a split convolution with `groups` cannot replace a convolution with this spec; None if it can."""
    if spec.groups != 1:
        return f"this convolution has groups={spec.groups}; a split needs all input channels in one"
    if spec.pointwise:
        return "a 1x1 convolution already is the cheap branch"
    if max(spec.stride) > 2:
        return f"stride={spec.stride} must be 1 or 2: the cheap branch sees the average of each stride's pixels"
    if not spec.keeps_size:
        return (
            f"padding={spec.padding} with kernel_size={spec.kernel_size} and dilation={spec.dilation} changes the size by "
            "more than the stride, so that the branches differ in size; padding of dilation * (kernel_size - 1) / 2 would"
        )
    if spec.out_channels % groups or spec.in_channels < groups:
        options = [d for d in divisors(spec.out_channels) if d <= spec.in_channels]
        return (
            f"groups={groups} must divide out_channels={spec.out_channels} and not exceed in_channels="
            f"{spec.in_channels}; {alternatives(options)} would"
        )
    return None


class SplitConv2d(ConvOp):
    """Split convolution: k x k on the representative channels, 1x1 on the redundant ones, fused by a gate.

        u3 = norm3(grouped(x[:, :R]) + point(pool(x)[:, :R]))
        u1 = norm1(redundant(pool(x)[:, R:]))
        gate = softmax over the two branches of their global averages = sigmoid(mean(u3) - mean(u1))
        y = gate * u3 + (1 - gate) * u1

    with R = ratio * I, rounded to the nearest multiple of own_groups. At stride 2, pool is the average over the pixels of
    each stride; on odd maps, the last window averages the remaining pixels. At stride 1 there is no pool. Without redundant
    channels (ratio 1, or ``redundant=False``) there is one branch and no gate. The bias is the shift of the norms.

    Args:
        ratio: alpha, the representative part of the input channels, in (0, 1].
        own_groups: the groups of the k x k convolution on the representative channels (g in the paper). `groups` must be 1.
        fusion: True for the gate above; "static" for the gate of an average image, sigmoid(norm3.bias - norm1.bias), which
            inference folds into the weights; False adds the branches.
        representative: "sum" adds the grouped convolution and the 1x1 convolution; "chain" is the grouped convolution
            followed by a 1x1 convolution O -> O; "full" is one k x k convolution without groups and without a 1x1.
        redundant: whether the other channels are used.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.

    Raises:
        SettingError: the stride is over 2, `groups` is not 1, the padding changes the size by more than the stride, or
            `own_groups` does not divide O.

    Source: "Split to Be Slim", sections 3.2-3.4, eqs. 2-7; the variants are the rows of Table 4. The release fails for odd
    maps at stride 2, for ratio 1 and with dilation, and pools twice. "static" is our own variant: the mean of a normalised
    branch over the images is its bias, so the gate of an average image needs no means at run time. Weights are the same ones.

    >>> SplitConv2d(16, 32, 3, padding=1)(torch.zeros(1, 16, 8, 8)).shape
    torch.Size([1, 32, 8, 8])
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
        ratio: float = 0.5,
        own_groups: int = 2,
        fusion: Fusion = True,
        representative: Representative = "sum",
        redundant: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        Split(ratio, own_groups, fusion, representative, redundant)  # checks its settings
        error = split_error(self.spec, own_groups)
        if error:
            raise SettingError(error)
        self.ratio, self.own_groups, self.fusion = ratio, own_groups, fusion
        self.used = representative_channels(in_channels, ratio, own_groups)
        rest = in_channels - self.used if redundant else 0
        self.grouped = nn.Conv2d(
            self.used,
            out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            1 if representative == "full" else own_groups,
            bias=False,
            padding_mode=padding_mode,  # type: ignore[arg-type]
        )
        self.point: nn.Conv2d | None = None
        self.chained = representative == "chain"
        if representative != "full":
            self.point = nn.Conv2d(out_channels if self.chained else self.used, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.redundant: nn.Conv2d | None = None
        self.norm1: nn.BatchNorm2d | None = None
        if rest:
            self.redundant = nn.Conv2d(rest, out_channels, 1, bias=True)
            self.norm1 = nn.BatchNorm2d(out_channels)
        self.pool: nn.Module | None = None
        if self.stride != (1, 1):
            self.pool = EdgeAvgPool2d(self.stride)
        self.mergeable = representative == "sum" and self.pool is None and self.spec.centre is not None
        self.merges = self.mergeable and in_channels <= MERGE_UP_TO  # in training; the result is the same
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights: Kaiming normal over the fan out, as in ResNet. Biases are 0."""
        for conv in (self.grouped, self.point, self.redundant):
            if conv is not None:
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        for norm in (self.norm3, self.norm1):
            if norm is not None:
                norm.reset_parameters()

    def settings(self) -> dict[str, Any]:
        return {
            "used": self.used,
            "own_groups": self.grouped.groups,
            "fusion": self.fusion,
            "point": self.point is not None,
            "chained": self.chained,
            "redundant": self.redundant is not None,
        }

    def settings_repr(self) -> str:
        return f"{self.used} of {self.in_channels} channels representative"

    @property
    def gated(self) -> bool:
        """Whether a gate computes the means of the branches at run time."""
        return self.fusion is True and self.redundant is not None

    @property
    def weight(self) -> WeightView:
        """The dense weight, for code that reads it."""
        return WeightView(self, self.grouped.weight)

    @property
    def bias(self) -> None:
        """None: the shift of the norms replaces the bias."""
        return None

    def convolve(self, x: Tensor) -> Tensor:
        # split, not slices: the backward pass of a slice drops channels_last, which costs a third of a training step
        used, rest = x.split((self.used, self.in_channels - self.used), 1)
        if self.training and self.merges:
            used, rest = used.clone(), rest.clone()  # contiguous once, not again in each convolution and each gradient
            u3 = self.conv2d(used, self.merged_weight(), None)
        else:
            u3 = self.grouped(used)
            if self.pool is not None:
                used, rest = self._pooled(self.pool, x, used, rest)
            if self.point is not None:
                u3 = self.point(u3) if self.chained else u3 + self.point(used)
        if self.redundant is None or self.norm1 is None:
            return self.norm3(u3)
        u1 = self.redundant(rest)
        if self.training and self.fusion != "static" and can_normed_sum(u3, u1, self.norm3, self.norm1):
            return normed_sum(u3, u1, self.norm3, self.norm1, bool(self.fusion))
        u3 = self.norm3(u3)  # one after the other: a map is freed before the next one is made
        u1 = self.norm1(u1)
        if self.fusion == "static":
            share3, share1 = self.shares()
            u3 = share3.view(-1, 1, 1) * u3
            u1 = share1.view(-1, 1, 1) * u1
            return u3 + u1
        return gated_sum(u3, u1) if self.fusion else u3 + u1

    def shares(self) -> tuple[Tensor, Tensor]:
        """The factors (O) of the two branches that inference folds into the weights: of the static gate, or ones."""
        assert self.norm1 is not None
        if self.fusion != "static":
            return torch.ones_like(self.norm3.bias), torch.ones_like(self.norm3.bias)
        difference = self.norm3.bias - self.norm1.bias
        return difference.sigmoid(), (-difference).sigmoid()

    def merged_weight(self) -> Tensor:
        """The grouped convolution and the 1x1 convolution as one k x k weight (O, R, kh, kw), if `mergeable` is true."""
        centre, point, (kh, kw) = self.spec.centre, self.point, self.kernel_size
        assert centre is not None and point is not None
        (row, column), groups = centre, self.grouped.groups
        width, rows = self.used // groups, self.out_channels // groups
        blocks = [  # slices, because FX cannot iterate over the result of chunk
            F.pad(self.grouped.weight[g * rows : (g + 1) * rows], (0, 0, 0, 0, width * g, width * (groups - g - 1)))
            for g in range(groups)
        ]
        return torch.cat(blocks) + F.pad(point.weight, (column, kw - column - 1, row, kh - row - 1))

    def _pooled(self, pool: nn.Module, x: Tensor, used: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of the 1x1 convolutions at the size of the output; a single pooling if there are two of them."""
        beside = self.point is not None and not self.chained
        if beside and self.redundant is not None:
            used, rest = pool(x).split((self.used, self.in_channels - self.used), 1)
        elif beside:
            used = pool(used)
        elif self.redundant is not None:
            rest = pool(rest)
        return used, rest

    def inference_forms(self, affine: Affine | None) -> Forms:
        return forms(self, affine)

    def release_places(self, layer: NamedLayer) -> list[Place]:
        convs = {"grouped.": ("gwc.",), "point.": ("pwc.",), "redundant.": ("conv1x1.",)}
        return layer.renamed(convs | {"norm3.": ("bn1.",), "norm1.": ("bn2.",)})

    def sums_left_out(self, out: Tensor) -> int:
        """The additions of a second average: the paper averages both branches, and this module averages their difference."""
        return out.numel() + out.shape[0] * out.shape[1] if self.gated else 0


@dataclass(frozen=True)
class Split(Method):
    """Split convolution (SPConv).

    With R representative channels of I, g groups and k = kh kw: parameters k R O / g for the grouped convolution, R O for the
    1x1 convolution on the same channels, (I - R) O + O for the redundant channels, and 4 O for the two norms. MACs
    (k R / g + I) O for each output position.

    Args:
        ratio: alpha, the representative part of the input channels, in (0, 1].
        groups: the groups of the k x k convolution on the representative channels.
        fusion: True for the gate of the paper; "static" for a gate that does not depend on the image; False adds the branches.
        representative: "sum" (as in the paper), "chain" or "full": see `SplitConv2d`.
        redundant: whether the other channels are used.

    Source: "Split to Be Slim: An Overlooked Redundancy in Vanilla Convolution", eq. 9 (without bias and norms).
    """

    ratio: float = 0.5
    groups: int = 2
    fusion: Fusion = True
    representative: Representative = "sum"
    redundant: bool = True

    def __post_init__(self) -> None:
        check_share("ratio", self.ratio)
        check_int("groups", self.groups)
        error = fusion_error(self.fusion)
        if error:
            raise SettingError(error)
        check_bool("redundant", self.redundant)
        check_choice("representative", self.representative, ("sum", "chain", "full"))

    @classmethod
    def grid(cls, specs: Sequence[ConvSpec], align: int) -> Sequence[Method]:
        tried = (cls(ratio=ratio) for ratio in (0.5, 0.25))
        width = specs[0].in_channels
        return [method for method in tried if representative_channels(width, method.ratio, method.groups) % align == 0]

    def aligned(self, spec: ConvSpec, align: int) -> Method | str:
        """The groups and the ratio at which each group of the k x k convolution, and the redundant part, are whole vectors."""
        for groups in range(self.groups, 0, -1):
            step = align * groups
            used = aligned_share(spec.in_channels, self.ratio, step)
            if used is not None and spec.in_channels % align == 0 and spec.out_channels % step == 0:
                return replace(self, groups=groups, ratio=used / spec.in_channels)
        return f"align={align} divides no two parts of the channels in {spec}; a smaller align or wider layers would do"

    def channel_form(self, spec: ConvSpec) -> ChannelForm | None:
        if not self.redundant:
            return None
        return ChannelForm(redundant_from=representative_channels(spec.in_channels, self.ratio, self.groups))

    def reject(self, spec: ConvSpec) -> str | None:
        return split_error(spec, self.groups)

    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        return [
            SplitConv2d(
                **spec.kwargs(),
                ratio=self.ratio,
                own_groups=self.groups,
                fusion=self.fusion,
                representative=self.representative,
                redundant=self.redundant,
            )
            for spec in specs
        ]

    def _weights(self, spec: ConvSpec) -> tuple[int, int]:
        """The number of weights of the convolutions, and the number of redundant channels."""
        used = representative_channels(spec.in_channels, self.ratio, self.groups)
        rest = spec.in_channels - used if self.redundant else 0
        o, taps = spec.out_channels, spec.kernel_size[0] * spec.kernel_size[1]
        groups = 1 if self.representative == "full" else self.groups
        point = {"sum": used, "chain": o, "full": 0}[self.representative]
        return o * (taps * used // groups + point + rest), rest

    def params(self, specs: Sequence[ConvSpec]) -> int:
        total = 0
        for spec in specs:
            weights, rest = self._weights(spec)
            total += weights + (5 if rest else 2) * spec.out_channels
        return total

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        return self._weights(specs[index])[0] * out_hw[0] * out_hw[1]

    def degenerate(self, spec: ConvSpec) -> Method | None:
        return Split(ratio=1.0, groups=1)

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Stats = None) -> None:
        """Fit the weights by least squares, for a gate of 1/2 and norms that are the identity in eval mode.

        With `stats`, the branches are fitted to the dense outputs: see `fit_branches_`.
        """
        for module, conv, moments in zip(modules, convs, each(stats, convs), strict=True):
            assert isinstance(module, SplitConv2d)
            fit_weights_(module, conv)
            if moments is not None:
                fit_branches_(module, conv, moments)
