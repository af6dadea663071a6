from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import DataError


def images() -> Tensor:
    torch.manual_seed(1)
    return nn.functional.avg_pool2d(torch.randn(16, 4, 14, 14), 3, 1) * 2 + 0.2


def network(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    parts = [part for _ in range(3) for part in (nn.Conv2d(4, 4, 3, bias=bias), nn.ReLU())]
    return nn.Sequential(*parts, nn.Flatten(), nn.LazyLinear(4)).eval()


def outputs(model: nn.Module, layer: int) -> Tensor:
    with torch.no_grad():
        return model[: layer + 1](images()).movedim(1, 0).flatten(1)


EXACT = [
    lc.Grouped(2),
    lc.Het(2),
    lc.Lego(splits=2),
    lc.SharedBasis(shared=0, unique=2, growth=1, norm=False),
]


@pytest.mark.parametrize("method", EXACT, ids=lambda method: method.name)
@pytest.mark.parametrize("bias", [True, False])
def test_every_channel_has_the_mean_and_deviation_of_the_dense_one(method, bias):
    model = network(bias)
    model(images())
    lean = lc.convert(model, method, "fit", input_size=(4, 12, 12))
    assert lc.repair_outputs_(lean, model, images()) == ["0", "2", "4"]
    for layer in (0, 2, 4):
        ours, dense = outputs(lean, layer), outputs(model, layer)
        torch.testing.assert_close(ours.std(1), dense.std(1), rtol=1e-3, atol=1e-4)
        if bias:
            torch.testing.assert_close(ours.mean(1), dense.mean(1), rtol=1e-3, atol=1e-4)


def test_blocks_share_their_correction():
    model = network()
    model(images())
    lean = lc.convert(model, lc.TiedBlock(2), "fit", input_size=(4, 12, 12))
    before = outputs(lean, 0)
    lc.repair_outputs_(lean, model, [(images(), None)])
    ours, dense = outputs(lean, 0), outputs(model, 0)

    def apart(x: Tensor, what: str) -> Tensor:
        return (getattr(x, what)(1) - getattr(dense, what)(1)).unflatten(0, (2, 2)).mean(0).abs().max()

    assert apart(ours, "mean") < 1e-5 < apart(before, "mean")
    assert apart(ours, "std") < apart(before, "std")


@pytest.mark.parametrize("bias", [True, False])
def test_layers_that_share_their_filters_get_what_they_can(bias):
    model = network(bias)
    model(images())
    lean = lc.convert(model, lc.DepthShared(blend=True), "fit", input_size=(4, 12, 12), stages={"*": 0})
    assert lc.repair_outputs_(lean, model, images()) == ["4"]
    if not bias:
        torch.testing.assert_close(outputs(lean, 4).std(1), outputs(model, 4).std(1), rtol=1e-3, atol=1e-4)


def test_linear_layers_are_repaired_and_dense_networks_are_unchanged():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 6), nn.Linear(6, 2)).eval()
    x = torch.randn(64, 4, 1, 1) + 1
    lean = lc.convert(model, lc.Grouped(2), "fit", include="linear", input_size=(4, 1, 1))
    assert lc.repair_outputs_(lean, model, x) == ["0", "2"]
    with torch.no_grad():
        torch.testing.assert_close(lean[:3](x).std(0), model[:3](x).std(0), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(lean[:3](x).mean(0), model[:3](x).mean(0), rtol=1e-3, atol=1e-4)
    assert lc.repair_outputs_(model, model, x) == []
    with pytest.raises(DataError, match="no batch"):
        lc.repair_outputs_(lean, model, [])
