"""Each way of counting, by hand on a network small enough."""

from __future__ import annotations

import pytest
from torch import nn

import leanconv as lc
from leanconv.papers import conventions as c
from leanconv.papers.rows import Network
from leanconv.papers.tally import Tally, tally


class Small(nn.Module):
    """Every kind of layer that a convention weighs, once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)  # 8x8 map: 8 * 64 outputs of 27 inputs
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.down = nn.AvgPool2d(2)  # to 4x4
        self.point = nn.Conv2d(8, 4, 1, bias=False)
        self.se = nn.Sequential(nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1))
        self.maximum = nn.MaxPool2d(2)  # to 2x2
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        x = self.point(self.down(self.relu(self.bn(self.conv(x)))))
        return self.fc(self.mean(self.maximum(self.se(x))).flatten(1))


@pytest.fixture(scope="module")
def small() -> c.Counted:
    model = Small()
    return c.Counted(model, tally(model, (3, 8, 8)))


CONV = 8 * 64 * 27 + 4 * 16 * 8 + 2 * 16 * 4 + 4 * 16 * 2
CONV_BIASES = 8 * 64 + 2 * 16 + 4 * 16


def test_the_tally(small):
    assert small.tally == Tally(
        conv_macs=CONV,
        conv_biases=CONV_BIASES,
        linear_macs=40,
        linear_outputs=10,
        linear_biases=10,
        norm_elements=8 * 64,
        relu_elements=8 * 64,
        pool_inputs=8 * 64 + 4 * 16 + 4 * 4,
        pool_sums=8 * 16 * (2 + 1) + 4 * (4 + 1),
    )


def test_operations(small):
    assert c.macs(small) == CONV + 40 == lc.count(small.model, (3, 8, 8)).macs
    assert c.macs_doubled(small) == 2 * (CONV + 40)
    ptflops = CONV + 40 + CONV_BIASES + 10 + 2 * 512 + 512 + (512 + 64 + 16)
    assert c.ptflops(small) == ptflops
    assert c.ptflops_doubled(small) == 2 * ptflops
    assert c.early_thop(small) == CONV + CONV_BIASES + 4 * 512 + (8 * 16 * 3 + 4 * 5) + 10 * (2 * 4 - 1)


def test_parameters(small):
    convs = (216 + 8) + 32 + (8 + 2) + (8 + 4)
    assert c.params(small) == convs + 16 + 50
    assert c.conv_params(small) == convs
    assert c.conv_and_fc_params(small) == convs + 50
    assert c.params_of("se.*")(small) == 22


def test_a_shared_tensor_counts_once():
    dense = lc.create_model("resnet8")
    lean = lc.convert(dense, lc.plan(dense, lc.DepthShared(), where="layer*.conv?"))
    assert c.params(c.Counted(lean, Tally())) == lc.count(lean).params


def test_the_gate_of_a_split_counts_both_averages():
    conv = nn.Conv2d(8, 6, 3, padding=1, bias=False)
    gated, plain = (lc.convert(conv, lc.plan(conv, lc.Split(fusion=fusion))) for fusion in (True, False))
    more = [c.early_thop(c.Counted(model, tally(model, (8, 5, 5)))) for model in (gated, plain)]
    assert more[0] - more[1] == 2 * 6 * (25 + 1)


def test_a_pruned_network_has_the_macs_that_it_keeps():
    dense, pruned = c.counted("resnet20", {}), c.counted("resnet20", {}, 0.5)
    assert 0.45 * c.macs(dense) < c.macs(pruned) <= 0.5 * c.macs(dense)
    assert c.params(pruned) < 0.6 * c.params(dense)
    assert str(Network("resnet20", kept_macs=0.5)) == "resnet20, pruned(macs=0.5, align=1)"
