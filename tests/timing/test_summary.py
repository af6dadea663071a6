from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError


@pytest.fixture
def pair():
    model = lc.create_model("resnet8")
    return model, lc.convert(model, lc.plan(model, lc.TiedBlock(), exclude="conv1"))


def test_rows_hold_counts_and_measured_ratios(pair):
    found = lc.summary(*pair, seconds=0.1)
    assert [row.name for row in found.rows] == ["CifarResNet", "tied_block(blocks=2)"]
    assert [row.count for row in found.rows] == [lc.count(model) for model in pair]
    assert found.rows[0].latency.ratio == 1.0
    assert found.rows[1].latency.ratio > 0
    text = str(found).splitlines()
    assert len(text) == 3
    assert f"{lc.count(pair[1]).params:,}" in text[2]
    assert found.to_json()[1]["params"] == lc.count(pair[1]).params


def test_equal_networks_get_numbers_and_mixed_plans_all_their_methods(pair):
    dense = pair[0]
    mixed = lc.convert(dense, lc.plan(dense, [("layer1*", lc.Split()), ("layer2*conv?", lc.TiedBlock())]))
    names = [row.name for row in lc.summary(dense, dense, mixed, latency=False).rows]
    assert names == ["CifarResNet #1", "CifarResNet #2", "split(ratio=0.5) + tied_block(blocks=2)"]


def test_counts_only_need_no_input_size():
    row = lc.summary(nn.Conv2d(3, 4, 1), latency=False).rows[0]
    assert row.count.macs is None
    assert "?" in str(lc.summary(nn.Conv2d(3, 4, 1), latency=False))


def test_each_network_is_timed_in_its_own_dtype(pair):
    seen = []

    class Watched(nn.Conv2d):
        def forward(self, x):
            seen.append((x.dtype, self.weight.dtype))
            return super().forward(x)

    text = str(lc.summary(Watched(3, 4, 1), Watched(3, 4, 1).bfloat16(), input_size=(3, 8, 8), seconds=0.01))
    assert {(torch.float32,) * 2, (torch.bfloat16,) * 2} <= set(seen) and len(set(seen)) == 2
    assert text.splitlines()[-1] == "times: Watched #1 in float32, Watched #2 in bfloat16"


def test_bad_use_is_one_clear_error():
    with pytest.raises(SettingError, match="at least one model"):
        lc.summary()
    with pytest.raises(SettingError, match="does not note its own"):
        lc.summary(nn.Conv2d(3, 4, 1))
