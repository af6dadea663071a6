"""SPConv: a costly convolution on the representative channels, a cheap one on the others, and a gate between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from leanconv.core.affine import Affine
from leanconv.core.errors import SettingError
from leanconv.core.method import Method
from leanconv.core.operator import ConvOp, Forms
from leanconv.core.release import NamedLayer, Place
from leanconv.core.settings import check_bool, check_choice, check_int
from leanconv.core.spec import ConvSpec, Pair, alternatives, divisors
from leanconv.core.weight import WeightView
from leanconv.ops.gated_sum import gated_sum
from leanconv.ops.pooling import EdgeAvgPool2d

__all__ = ["Split", "SplitConv2d"]

fx.wrap("gated_sum")  # FX keeps the call whole: its choice between two backward passes cannot be traced
Representative = Literal["sum", "chain", "full"]
# Up to this many input channels one k x k convolution trains quicker than the grouped one and the 1x1 beside it, though
# it multiplies by zeros (forward and backward in bfloat16 channels_last on an AVX-512 core, a 3x3 that keeps its width:
# 16 channels 5.3 against 11.1 ms, 32: 3.5 against 4.9, 64: 3.2 against 3.4).
MERGE_UP_TO = 64


def representative_channels(in_channels: int, ratio: float, groups: int) -> int:
    """ratio * in_channels to the nearest multiple of `groups` (halves go up), at least one channel a group."""
    nearest = math.floor(ratio * in_channels / groups + 0.5) * groups
    return min(max(nearest, groups), in_channels // groups * groups)


def split_error(spec: ConvSpec, groups: int) -> str | None:
    """Why a split convolution with `groups` cannot stand in for `spec`; None when it can."""
    if spec.groups != 1:
        return f"this convolution has groups={spec.groups}; a split needs all input channels in one"
    if spec.pointwise:
        return "a 1x1 convolution already is the cheap branch"
    if max(spec.stride) > 2:
        return f"stride={spec.stride} must be 1 or 2: the cheap branch sees the average of each stride's pixels"
    if not spec.keeps_size:
        return (
            f"padding={spec.padding} with kernel_size={spec.kernel_size} and dilation={spec.dilation} changes the size by "
            "more than the stride, so that the branches would not meet; padding of dilation * (kernel_size - 1) / 2 would"
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

    with R = ratio * I to the nearest multiple of groups. pool is the average over each stride's pixels, present where
    the stride is 2; on odd maps its last window holds what is left. With no redundant channels (ratio 1, or
    ``redundant=False``) there is one branch and no gate. The convolution's own bias is the norms' shift.

    Args:
        ratio: alpha, the representative part of the input channels, in (0, 1].
        groups: of the k x k convolution on the representative channels (the paper's g, not the host's groups).
        fusion: the gate; False adds the branches.
        representative: "sum" is grouped + point side by side; "chain" the grouped convolution followed by a 1x1
            O -> O; "full" one k x k convolution without groups and without a 1x1.
        redundant: whether the other channels are used at all.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.

    Raises:
        SettingError: a stride over 2, host groups, a padding that changes the size, or groups that do not divide O.

    Source: "Split to Be Slim", sections 3.2-3.4, eqs. 2-7; the variants are the rows of its Table 4. The release fails on
    odd maps at stride 2, at ratio 1 and with dilation, and pools twice.
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
        fusion: bool = True,
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
        self.mergeable = representative == "sum" and self.pool is None and self._centre() is not None
        self.merges = self.mergeable and in_channels <= MERGE_UP_TO  # in training; the result is the same
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming normal over the fan out, as ResNet does."""
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
    def weight(self) -> WeightView:
        """The dense weight, for code that reads it."""
        return WeightView(self, self.grouped.weight)

    @property
    def bias(self) -> None:
        """A bias of the convolution is the norms' shift."""
        return None

    def convolve(self, x: Tensor) -> Tensor:
        # split, not slices: the backward pass of a slice drops channels_last, which costs a third of a training step
        used, rest = x.split((self.used, self.in_channels - self.used), 1)
        if self.training and self.merges:
            used, rest = used.clone(), rest.clone()  # dense once, not in each convolution and each of its gradients
            u3 = self.conv2d(used, self.merged_weight(), None)
        else:
            u3 = self.grouped(used)
            if self.pool is not None:
                used, rest = self._pooled(self.pool, x, used, rest)
            if self.point is not None:
                u3 = self.point(u3) if self.chained else u3 + self.point(used)
        u3 = self.norm3(u3)
        if self.redundant is None or self.norm1 is None:
            return u3
        u1 = self.norm1(self.redundant(rest))
        return gated_sum(u3, u1) if self.fusion else u3 + u1

    def _centre(self) -> Pair | None:
        """The tap of the k x k kernel that falls on the output's own pixel; None where there is none."""
        left, _, top, _ = self.spec.pads
        (dh, dw) = self.dilation
        return None if top % dh or left % dw else (top // dh, left // dw)

    def merged_weight(self) -> Tensor:
        """The grouped convolution and the 1x1 beside it as one k x k weight: (O, R, kh, kw); for where `mergeable` is set."""
        centre, point, (kh, kw) = self._centre(), self.point, self.kernel_size
        assert centre is not None and point is not None
        (row, column), groups = centre, self.grouped.groups
        width, rows = self.used // groups, self.out_channels // groups
        blocks = [  # slices, since FX cannot go through the parts that chunk gives
            F.pad(self.grouped.weight[g * rows : (g + 1) * rows], (0, 0, 0, 0, width * g, width * (groups - g - 1)))
            for g in range(groups)
        ]
        return torch.cat(blocks) + F.pad(point.weight, (column, kw - column - 1, row, kh - row - 1))

    def _pooled(self, pool: nn.Module, x: Tensor, used: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Both parts at the size of the output, for the 1x1 convolutions that there are: one pooling where both need it."""
        beside = self.point is not None and not self.chained
        if beside and self.redundant is not None:
            used, rest = pool(x).split((self.used, self.in_channels - self.used), 1)
        elif beside:
            used = pool(used)
        elif self.redundant is not None:
            rest = pool(rest)
        return used, rest

    def inference_forms(self, affine: Affine | None) -> Forms:
        from leanconv.ops.forms.split import forms

        return forms(self, affine)

    def release_places(self, layer: NamedLayer) -> list[Place]:
        convs = {"grouped.": ("gwc.",), "point.": ("pwc.",), "redundant.": ("conv1x1.",)}
        return layer.renamed(convs | {"norm3.": ("bn1.",), "norm1.": ("bn2.",)})

    def sums_left_out(self, out: Tensor) -> int:
        """The paper averages both branches for the gate, this their difference, which is equal."""
        return out.numel() + out.shape[0] * out.shape[1] if self.fusion and self.redundant is not None else 0


@dataclass(frozen=True)
class Split(Method):
    """Split convolution (SPConv).

    With R representative channels of I, g groups and k = kh kw: parameters k R O / g + R O of the 1x1 beside it +
    (I - R) O + O of bias + 4 O of the two norms; MACs (k R / g + I) O for each output position.

    Args:
        ratio: alpha, the representative part of the input channels, in (0, 1].
        groups: of the convolution on the representative channels.
        fusion: the gate between the branches; False adds them.
        representative: "sum" (the paper's), "chain" or "full": see `SplitConv2d`.
        redundant: whether the other channels are used at all.

    Source: "Split to Be Slim: An Overlooked Redundancy in Vanilla Convolution", eq. 9 (which leaves bias and norms out).
    """

    ratio: float = 0.5
    groups: int = 2
    fusion: bool = True
    representative: Representative = "sum"
    redundant: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.ratio, bool) or not isinstance(self.ratio, int | float) or not 0 < self.ratio <= 1:
            raise SettingError(f"ratio={self.ratio!r} must be a number above 0 and at most 1")
        check_int("groups", self.groups)
        check_bool("fusion", self.fusion)
        check_bool("redundant", self.redundant)
        check_choice("representative", self.representative, ("sum", "chain", "full"))

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
        """Weights of the convolutions, and redundant channels."""
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

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d]) -> None:
        """Least squares over the dense weight with the gate at 1/2 and norms that do nothing in eval."""
        for module, conv in zip(modules, convs, strict=True):
            assert isinstance(module, SplitConv2d)
            _fit(module, conv)


def _fit(module: SplitConv2d, conv: nn.Conv2d) -> None:
    spec, used, groups = module.spec, module.used, module.grouped.groups
    gated = module.redundant is not None and module.fusion
    weight = conv.weight * (2 if gated else 1)
    module.grouped.weight.copy_(_diagonal_blocks(weight[:, :used], groups))
    if module.point is not None and module.chained:
        nn.init.dirac_(module.point.weight)
    elif module.point is not None:
        cheap = _pooled_tap(weight[:, :used], spec)
        for g in range(groups):  # what the grouped convolution already holds is not the 1x1's to hold
            rows, columns = cheap.shape[0] // groups, cheap.shape[1] // groups
            cheap[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = 0
        module.point.weight.copy_(cheap[:, :, None, None])
    if module.redundant is not None:
        module.redundant.weight.copy_(_pooled_tap(weight[:, used:], spec)[:, :, None, None])
        assert module.redundant.bias is not None
        module.redundant.bias.zero_()
    norms = [norm for norm in (module.norm3, module.norm1) if norm is not None]
    for norm in norms:
        norm.reset_parameters()
        norm.weight.fill_((1 + norm.eps) ** 0.5)  # in eval x / sqrt(1 + eps) * this = x
        if conv.bias is not None:
            norm.bias.copy_(conv.bias if gated or len(norms) == 1 else conv.bias / 2)


def _diagonal_blocks(weight: Tensor, groups: int) -> Tensor:
    """The part of a dense weight that a grouped convolution can hold."""
    blocks = weight.unflatten(1, (groups, -1)).unflatten(0, (groups, -1))  # (g, o, g, i, kh, kw)
    return blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0).flatten(0, 1)


def _pooled_tap(weight: Tensor, spec: ConvSpec) -> Tensor:
    """The 1x1 weight that, on the average over each stride's pixels, comes nearest to a k x k convolution.

    The average has weight 1 / (sh sw) on the pixels (0..sh-1, 0..sw-1); least squares over taps gives the sum of the
    kernel's taps that fall on those pixels.
    """
    left, _, top, _ = spec.pads
    (kh, kw), (dh, dw), (sh, sw) = spec.kernel_size, spec.dilation, spec.stride
    rows = [i for i in range(kh) if 0 <= i * dh - top < sh]
    columns = [j for j in range(kw) if 0 <= j * dw - left < sw]
    return weight[:, :, rows][:, :, :, columns].sum((2, 3))
