"""A network as files should hold it: every shared and every thin weight once, as it is."""

from __future__ import annotations

from torch import nn

from leanconv.core.copying import copied
from leanconv.core.operator import ConvOp


def compact(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose layers run without expanding or stacking weights; each knows how (`ConvOp.compact_`)."""
    model = copied(model).eval()
    for module in model.modules():
        if isinstance(module, ConvOp):
            module.compact_()
    return model
