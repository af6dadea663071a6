"""A network as files should hold it: every shared and every thin weight once, as it is."""

from __future__ import annotations

from torch import nn

from leanconv.core.copying import copied
from leanconv.ops.shared_basis import SharedBasisConv2d
from leanconv.ops.tied_block import TiedBlockConv2d


def compact(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose layers run without expanding or stacking weights.

    Tied blocks fold into the batch (repeated in as many groups a bank would stand B times in the file); shared and unique
    components are two convolutions (stacked, each layer would hold a copy of the shared ones).
    """
    model = copied(model).eval()
    for module in model.modules():
        if isinstance(module, TiedBlockConv2d):
            module.form = "fold"
        elif isinstance(module, SharedBasisConv2d):
            module.form = "apart"
    return model
