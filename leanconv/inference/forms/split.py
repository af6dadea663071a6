"""Split convolution: norms folded, the gate from one difference, the branches merged in several ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanconv.core.spec import ConvSpec
from leanconv.inference.affine import Affine, conv_of, folded
from leanconv.inference.forms.types import Forms
from leanconv.ops.split import SplitConv2d


def forms(op: SplitConv2d, affine: Affine | None) -> Forms:
    """The branches' convolutions side by side, and with the 1x1 taken into the k x k."""
    found: Forms = {"branches": lambda: FoldedSplit(op, affine, merged=False)}
    if op.mergeable:
        found["merged"] = lambda: FoldedSplit(op, affine, merged=True)
    return found


class FoldedSplit(nn.Module):
    """A split convolution with its norms (and the one behind it) in the weights of its convolutions.

        a = grouped(x1) + point(x1);   b = redundant(x2);   y = b + sigmoid(back * mean(a - b)) * (a - b)

    A norm behind it with scale s multiplies both branches by s, and `back` = 1 / s takes that out of the gate again; where
    s is 0, so is the difference, and the gate does not matter.

    Args:
        merged: one k x k convolution in place of the grouped one and the 1x1.
    """

    def __init__(self, op: SplitConv2d, affine: Affine | None, *, merged: bool) -> None:
        super().__init__()
        self.parts = (op.used, op.in_channels - op.used)
        self.pool, self.chained, self.fusion = op.pool, op.chained and not merged, op.fusion
        both = Affine.of(op.norm3) if affine is None else Affine.of(op.norm3).then(affine)
        spec = ConvSpec.of(op.grouped)
        self.point: nn.Conv2d | None = None
        if merged:
            self.grouped = conv_of(spec, *folded(op.merged_weight(), None, both), groups=1)
        elif self.chained:
            assert op.point is not None
            self.grouped = conv_of(spec, op.grouped.weight, None)
            self.point = _pointwise(op.point, both)
        else:
            self.grouped = conv_of(spec, *folded(op.grouped.weight, None, both))
            if op.point is not None:
                self.point = _pointwise(op.point, Affine(both.scale, torch.zeros_like(both.shift)), bias=False)
        self.redundant: nn.Conv2d | None = None
        self.back: Tensor | None = None
        if op.redundant is not None and op.norm1 is not None:
            behind = affine if op.fusion or affine is None else Affine(affine.scale, torch.zeros_like(affine.shift))
            norm = Affine.of(op.norm1)
            self.redundant = _pointwise(op.redundant, norm if behind is None else norm.then(behind))
            if affine is not None and op.fusion:
                back = torch.where(affine.scale == 0, 0.0, 1 / affine.scale).view(1, -1, 1, 1)
                self.back = nn.Parameter(back.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        used, rest = x.split(self.parts, 1)
        a = self.grouped(used)
        if self.pool is not None and (self.point is not None or self.redundant is not None):
            used, rest = self.pool(x).split(self.parts, 1)
        if self.point is not None:
            a = self.point(a) if self.chained else a + self.point(used)
        if self.redundant is None:
            return a
        b = self.redundant(rest)
        if not self.fusion:
            return a + b
        difference = a - b
        mean = difference.mean((2, 3), keepdim=True)
        gate = (mean if self.back is None else mean * self.back).sigmoid()
        return torch.addcmul(b, difference, gate)


def _pointwise(conv: nn.Conv2d, affine: Affine, bias: bool = True) -> nn.Conv2d:
    weight, shift = folded(conv.weight, conv.bias, affine)
    new = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=bias, device="meta")
    new.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias:
        assert shift is not None
        new.bias = nn.Parameter(shift.detach().clone(), requires_grad=False)
    return new.eval()
