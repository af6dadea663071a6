"""channels_last for what has four dimensions; everything else stays as it is."""

from __future__ import annotations

import torch
from torch import nn

from leanconv.core.layout import is_channels_last, to_channels_last


class Mixed(nn.Module):
    """Tensors of five, four, three, two and no dimensions, one of them under two names, one complex, one without shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.volume, self.line = nn.Conv2d(3, 8, 3), nn.Conv3d(1, 2, 3), nn.Conv1d(3, 4, 3)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.register_buffer("anchors", torch.ones(1, 3, 1, 1, 2))
        self.register_buffer("table", torch.arange(120).view(2, 3, 4, 5))
        self.register_buffer("phase", torch.randn(2, 3, 4, 5, dtype=torch.complex64))
        self.register_buffer("nothing", None)
        self.same = self.conv
        self.lazy = nn.LazyConv2d(4, 3)


def test_tensors_of_five_dimensions_stay():
    model = Mixed()
    before = {
        name: value.clone() for name, value in model.state_dict().items() if not torch.nn.parameter.is_lazy(value)
    }
    weight = model.conv.weight
    assert to_channels_last(model) is model
    assert model.conv.weight is weight and model.same.weight is weight
    for tensor in (model.conv.weight, model.table, model.phase):
        assert is_channels_last(tensor) and not tensor.is_contiguous()
    for tensor in (model.volume.weight, model.anchors, model.line.weight, model.head.weight, model.norm.weight):
        assert tensor.is_contiguous() and not is_channels_last(tensor)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
