"""Hooks and replaced methods: nothing that a user put on a layer is lost without a word."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    def block(inputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())

    return nn.Sequential(block(3), block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_optimize_calls_the_hooks_of_a_container(kind: str) -> None:
    model, calls = network(), []
    getattr(model[1], kind)(lambda *seen: calls.append(seen[1]))
    fast = lc.optimize(model, IMAGES, measured=False)
    calls.clear()
    torch.testing.assert_close(fast(IMAGES), model(IMAGES))
    assert len(calls) == 2 and all(isinstance(value, torch.Tensor) for seen in calls for value in seen)


def test_to_dense_keeps_no_layer_with_hooks_in_silence() -> None:
    lean = lc.convert(network(), lc.TiedBlock(2), where="1.0")
    lean[1][0].register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(
        SettingError, match=r"'1\.0' has forward hooks, which a plain layer would lose; remove them first"
    ):
        lc.to_dense(lean)


@pytest.mark.parametrize("name", ["forward", "_conv_forward"])
def test_a_convolution_whose_method_was_replaced_stays(name: str) -> None:
    model = network()
    setattr(model[1][0], name, getattr(model[1][0], name))
    (kept,) = (item for item in lc.plan(model, lc.TiedBlock(2)).kept if item.site.name == "1.0")
    assert kept.reason.startswith("its forward was replaced on the object")


def test_a_network_that_needs_its_hooks_is_counted_with_them() -> None:
    def grey(module: nn.Module, inputs: Any) -> Any:
        return (inputs[0].expand(-1, 3, -1, -1),)

    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    model.register_forward_pre_hook(grey)
    assert lc.count(model, (1, 8, 8)).macs == 6 * 6 * 8 * 27
