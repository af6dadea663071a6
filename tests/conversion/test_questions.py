"""A network whose code asks for the class of a layer does something else when the layer is lean."""

from __future__ import annotations

import pytest
from torch import nn

import leanconv as lc
from leanconv.core.errors import LeanconvWarning

SIZE = (4, 8, 8)


class Asks(nn.Module):
    """Calls a ReLU after each layer of a class."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)])
        self.kind = kind

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, self.kind):
                x = x.relu()
        return x


class Inside(Asks):
    def forward(self, x):
        for layer, asked in [(layer, type(layer) is self.kind) for layer in self.layers]:
            x = layer(x).relu() if asked else layer(x)
        return x


@pytest.mark.parametrize("network", [Asks, Inside])
def test_a_class_that_lean_layers_do_not_have_is_said(network):
    with pytest.warns(
        LeanconvWarning, match=rf"{network.__name__}.forward asks for the class .* \(relu 2 -> 0 times\); ask"
    ):
        lc.convert(network(nn.Conv2d), lc.TiedBlock(blocks=2), input_size=SIZE)


@pytest.mark.parametrize("network", [Asks, Inside])
def test_questions_that_a_conversion_does_not_change_say_nothing(network):
    lc.convert(network(nn.BatchNorm2d), lc.TiedBlock(blocks=2), input_size=SIZE)
    lc.convert(network(nn.Conv2d), lc.TiedBlock(blocks=2))  # no input size: nothing to compare
