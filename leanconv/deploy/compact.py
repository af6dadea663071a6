"""The compact form of a network for files: every shared weight once, and no expanded weight."""

from __future__ import annotations

from torch import nn

from leanconv.core.copying import copied
from leanconv.core.modes import in_eval
from leanconv.core.operator import ConvOp


def compact(model: nn.Module) -> nn.Module:
    """A copy in eval mode, whose layers run without expanding or stacking weights (`ConvOp.compact_`).

    >>> compact(nn.Conv2d(3, 3, 3)).training
    False
    """
    model = in_eval(copied(model))
    for module in model.modules():
        if isinstance(module, ConvOp):
            module.compact_()
    return model
