"""Inference forms of split convolution: folded norms, a gate from one difference, and merged branches."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from leanconv.core.affine import Affine, ChannelAffine, conv_of, foldable, folded
from leanconv.core.modes import in_eval
from leanconv.core.operator import Forms
from leanconv.core.spec import ConvSpec
from leanconv.ops.forms.kernels import usable
from leanconv.ops.forms.protocols import Branches
from leanconv.ops.kernels import available


def forms(op: Branches, affine: Affine | None) -> Forms:
    """The branches' convolutions side by side, and with the 1x1 taken into the k x k; none where its norms cannot be folded."""
    if not all(foldable(norm) for norm in (op.norm3, op.norm1) if norm is not None):
        return {}
    found: Forms = {"branches": lambda: FoldedSplit(op, affine, merged=False)}
    if op.mergeable:
        found["merged"] = lambda: FoldedSplit(op, affine, merged=True)
    if op.gated and available(op.grouped.weight):
        for name in list(found):
            found[f"{name}, kernel"] = partial(FoldedSplit, op, affine, merged=name == "merged", kernel=True)
    return found


class FoldedSplit(nn.Module):
    """A split convolution with its norms, and the norm after it, folded into the weights of its convolutions.

        a = grouped(x1) + point(x1);   b = redundant(x2);   g = sigmoid(mean(a - b))
        y = scale * (b + g * (a - b)) + shift

    scale and shift are of the norm after the operator. With a gate, the scale is multiplied afterwards, because the gate needs
    the branches without the scale, and a trained scale may be 0 or almost 0, so nothing may be divided by it. Without a gate,
    and with a static one, the scale and the shares of the branches are in the weights. With a gate, `grouped` and `point`
    compute -a, so that b - a is a sum: runtimes can add to a convolution's output, but cannot subtract from it.

    The sums are in place of their first term, so a call makes two maps of the output's size: one more than a convolution.

    Args:
        affine: the norm after the operator; None without a norm.
        merged: whether one k x k convolution replaces the grouped and the 1x1 convolution.
        kernel: whether one Triton kernel computes difference, gate and sum.
    """

    def __init__(self, op: Branches, affine: Affine | None, *, merged: bool, kernel: bool = False) -> None:
        super().__init__()
        self.kernel = kernel
        self.parts = (op.used, op.in_channels - op.used)
        self.pool, self.chained = op.pool, op.chained and not merged
        self.gated = gated = op.gated
        first = Affine.of(op.norm3)
        shares = None if op.norm1 is None else op.shares()
        if gated:
            first = Affine(-first.scale, -first.shift)
        else:
            first = first if shares is None else first.times(shares[0])
            first = first if affine is None else first.then(affine)
        self.grouped, self.point = _representative(op, first, merged)
        self.redundant: nn.Conv2d | None = None
        if op.redundant is not None and op.norm1 is not None:
            assert shares is not None
            second = Affine.of(op.norm1).times(shares[1])
            if not gated and affine is not None:  # the shift is added only once, in the first branch
                second = second.then(Affine(affine.scale, torch.zeros_like(affine.shift)))
            self.redundant = _pointwise(op.redundant, second)
        self.behind = ChannelAffine(affine) if gated and affine is not None else None

    def forward(self, x: Tensor) -> Tensor:
        used, rest = x.split(self.parts, 1)
        a = self.grouped(used)
        if self.pool is not None and (self.point is not None or self.redundant is not None):
            used, rest = self.pool(x).split(self.parts, 1)
        if self.point is not None:
            a = self.point(a) if self.chained else a.add_(self.point(used))
        if self.redundant is None:
            return a
        b = self.redundant(rest)
        if not self.gated:
            return a.add_(b)
        if self.kernel and usable(x):
            from leanconv.ops.kernels.gated_sum import gated_difference

            scale, shift = (None, None) if self.behind is None else (self.behind.scale, self.behind.shift)
            y: Tensor = gated_difference(a, b, scale, shift)
            return y
        a.add_(b)  # b - a, in place of the branch
        b.addcmul_(a, (-a.mean((2, 3), keepdim=True)).sigmoid(), value=-1)
        del a
        return b if self.behind is None else self.behind(b)


def _representative(op: Branches, affine: Affine, merged: bool) -> tuple[nn.Conv2d, nn.Conv2d | None]:
    """The k x k convolution and the 1x1 beside or behind it, with `affine` in their weights."""
    spec = ConvSpec.of(op.grouped)
    if merged:
        return conv_of(spec, *folded(op.merged_weight(), None, affine), groups=1), None
    if op.chained:
        assert op.point is not None
        return conv_of(spec, op.grouped.weight, None), _pointwise(op.point, affine)
    grouped = conv_of(spec, *folded(op.grouped.weight, None, affine))
    if op.point is None:
        return grouped, None
    return grouped, _pointwise(op.point, Affine(affine.scale, torch.zeros_like(affine.shift)), bias=False)


def _pointwise(conv: nn.Conv2d, affine: Affine, bias: bool = True) -> nn.Conv2d:
    weight, shift = folded(conv.weight, conv.bias, affine)
    new = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=bias, device="meta")
    new.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias:
        assert shift is not None
        new.bias = nn.Parameter(shift.detach().clone(), requires_grad=False)
    return in_eval(new)
