"""Inference forms of a shared convolution with a correction of low rank: merged, or side by side."""

from __future__ import annotations

from torch import Tensor, nn

from leanconv.core.affine import Affine, conv_of, folded
from leanconv.core.operator import Forms
from leanconv.core.spec import ConvSpec
from leanconv.ops.forms.protocols import Corrected


def forms(op: Corrected, affine: Affine | None) -> Forms:
    """The dense convolution, which is the default, and the shared weight and the correction side by side.

    The second form has more MACs. It lets a runtime hold the shared weight once, where the weights do not fit its cache.
    """
    if op.inner is None or op.outer is None or op.blend is not None:
        return {}
    return {
        "dense": lambda: conv_of(op.spec, *folded(op.weight_dense(), op.bias_dense(), affine)),
        "shared and adapter": lambda: SideBySide(op, affine),
    }


class SideBySide(nn.Module):
    """A shared convolution and its correction as convolutions side by side, with the norm after them in their weights."""

    def __init__(self, op: Corrected, affine: Affine | None) -> None:
        super().__init__()
        assert op.inner is not None and op.outer is not None
        self.shared = conv_of(op.spec, *folded(op.bank.weight, op.bank.bias, affine))
        self.inner = conv_of(op.spec, op.inner, None)
        outer = op.outer if affine is None else affine.weight(op.outer)
        self.outer = conv_of(ConvSpec(len(op.inner), op.out_channels, (1, 1), groups=op.groups), outer, None)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shared(x) + self.outer(self.inner(x))
        return y
