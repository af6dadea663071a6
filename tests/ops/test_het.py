"""Heterogeneous kernels tap by tap."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.ops import het


def dense(op: lc.HetConv2d) -> nn.Conv2d:
    """The convolution of its definition, from the stored weights: filter f is k x k where (c - f) mod P == 0."""
    p, g, (kh, kw) = op.part, op.groups, op.kernel_size
    inputs, outputs = op.in_channels // g, op.out_channels // g
    conv = nn.Conv2d(**op.spec.kwargs()).double()
    with torch.no_grad():
        conv.weight.zero_()
        for group in range(g):
            for f in range(outputs):
                stored = group * outputs + f % p * (outputs // p) + f // p  # filters stand in the order of their class
                for c in range(inputs):
                    row = group * outputs + f
                    if (c - f) % p == 0:
                        conv.weight[row, c] = op.weight[stored, c // p]
                    else:
                        other = (c - f) % p - 1
                        middle = ((kh - 1) // 2, (kw - 1) // 2)
                        conv.weight[row, c, *middle] = op.point[stored, other * (inputs // p) + c // p, 0, 0]
        conv.bias.copy_(op.bias)
    return conv


HOSTS = [
    dict(kernel_size=3, padding=1),
    dict(kernel_size=3, stride=2, padding=1, groups=2),
    dict(kernel_size=3, padding=0),
    dict(kernel_size=3, padding=0, padding_mode="reflect"),
    dict(kernel_size=3, padding=3, dilation=2, padding_mode="circular"),
    dict(kernel_size=(5, 2), stride=(1, 3), padding=(0, 2)),
]


@pytest.mark.parametrize("part", [2, 4])
@pytest.mark.parametrize("host", HOSTS, ids=str)
@pytest.mark.parametrize("merge_up_to", [0, het.MERGE_UP_TO])
def test_training_computes_and_differentiates_what_eval_does(host, part, merge_up_to, monkeypatch):
    monkeypatch.setattr(het, "MERGE_UP_TO", merge_up_to)
    op = lc.HetConv2d(8, 16, **host, part=part).double()
    dense = torch.randn(2, 8, 9, 8, dtype=torch.float64)
    for x in (dense, dense.contiguous(memory_format=torch.channels_last)):
        results = []
        for training in (False, True):
            y = op.train(training)(x.requires_grad_())
            results.append((y, *torch.autograd.grad(y.sin().sum(), [x, *op.parameters()])))
        torch.testing.assert_close(*results)
    if op.padding_mode == "zeros":  # torch's other paddings drop the layout
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("part", [2, 4])
@pytest.mark.parametrize("host", HOSTS, ids=str)
def test_filters_are_k_x_k_on_one_channel_of_p_shifted_from_filter_to_filter(host, part):
    op = lc.HetConv2d(8, 16, **host, part=part).double()
    nn.init.normal_(op.bias)
    conv = dense(op)
    for size in ((9, 8), (7, 11)):
        x = torch.randn(2, 8, *size, dtype=torch.float64)
        torch.testing.assert_close(op(x), conv(x))
    torch.testing.assert_close(op.weight_dense(), conv.weight)
    taps = (op.weight_dense() != 0).sum((2, 3))
    k = op.kernel_size[0] * op.kernel_size[1]
    inputs = 8 // op.groups
    assert taps.sum(1).eq(inputs // part * k + inputs - inputs // part).all()


def test_refusals_name_the_parts_that_would_do():
    with pytest.raises(SettingError, match=r"part=4 must divide in_channels=18; 1, 2, 3, 6, 9 or 18 would"):
        lc.HetConv2d(18, 36, 3, part=4)
    with pytest.raises(SettingError, match=r"part=4 must divide in_channels=12 / groups=6; 1, 2, 3 or 6 would"):
        lc.HetConv2d(12, 24, 3, groups=2, part=4)
    with pytest.raises(SettingError, match="a 1x1 convolution has no other taps to leave out"):
        lc.HetConv2d(8, 8, 1)
    with pytest.raises(SettingError, match="part=0 must be a whole number of at least 1"):
        lc.Het(0)
