"""Networks with lean operators train like any other: the trainer knows none of them by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import leanconv as lc
from leanconv.data import ImageData
from leanconv.models.resnet import resnet
from leanconv.train import fit
from tests.train.conftest import SMALL, assert_same, state


def network(method: lc.Method) -> torch.nn.Module:
    torch.manual_seed(0)
    dense = resnet((2, 1), num_classes=3, in_chans=1, width=8, shortcut="B")
    return lc.convert(dense, lc.plan(dense, method, exclude="conv1", input_size=(1, 8, 8)))


@pytest.mark.parametrize(
    "method",
    [lc.TiedBlock(blocks=2), lc.SharedBasis(shared=2), lc.DepthShared(penalty_weight=0.1), lc.Split(groups=2)],
    ids=lambda method: method.name,
)
def test_a_lean_network_trains_stops_and_goes_on(method: lc.Method, data: ImageData, tmp_path: Path) -> None:
    config = SMALL.replace(ema=0.5, select="best", precision="bf16", epochs=6)
    model = network(method)
    before = state(model)
    result = fit(model, data, config, tmp_path, progress=False)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert (result.history[0]["penalty"] > 0) == bool(getattr(method, "penalty_weight", 0))
    assert state(model).keys() == before.keys()
    lc.check(model)
    again = network(method)
    fit(again, data, config, tmp_path, resume=True, progress=False)
    assert_same(state(again), state(model))
    lc.check(again)
