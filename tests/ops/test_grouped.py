"""Grouped convolutions group by group."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.ops.grouped import Grouped


def layer(own_groups: int, *spec, **settings) -> lc.ConvOp:
    return Grouped(own_groups).build([lc.ConvSpec(*spec, **settings)])[0]


def test_every_group_of_channels_meets_its_own_filters():
    op = layer(4, 8, 12, 3, padding=1)
    x = torch.randn(2, 8, 5, 6)
    parts = zip(x.chunk(4, 1), op.weight.chunk(4), op.bias.chunk(4), strict=True)
    wanted = [nn.functional.conv2d(part, weight, bias, padding=1) for part, weight, bias in parts]
    torch.testing.assert_close(op(x), torch.cat(wanted, 1))


def test_the_hosts_groups_multiply():
    op = layer(2, 8, 12, 3, padding=1, groups=2)
    conv = nn.Conv2d(8, 12, 3, padding=1, groups=4)
    assert op.weight.shape == conv.weight.shape
    conv.weight.data, conv.bias.data = op.weight, op.bias
    x = torch.randn(2, 8, 5, 6)
    torch.testing.assert_close(op(x), conv(x))


def test_tied_blocks_are_groups_that_hold_the_same_weights():
    tied = lc.TiedBlockConv2d(8, 12, 3, padding=1, blocks=2)
    op = layer(2, 8, 12, 3, padding=1)
    with torch.no_grad():
        op.weight.copy_(tied.weight.repeat(2, 1, 1, 1))
        op.bias.copy_(tied.bias.repeat(2))
    x = torch.randn(2, 8, 5, 6)
    torch.testing.assert_close(op(x), tied(x))
    assert op.weight.numel() == 2 * tied.weight.numel() == 8 * 12 * 9 // 2


def test_fit_keeps_what_a_grouped_convolution_can_hold():
    conv = nn.Conv2d(8, 12, 3)
    op = layer(2, 8, 12, 3)
    with torch.no_grad():
        Grouped(2).fit_([op], [conv])
    assert torch.equal(op.weight[:6], conv.weight[:6, :4])
    assert torch.equal(op.weight[6:], conv.weight[6:, 4:])


def test_refusals_name_the_groups_that_would_do():
    with pytest.raises(SettingError, match=r"must divide in_channels=18; 1, 2, 3, 6, 9 or 18 would"):
        layer(4, 18, 36, 3)
    assert Grouped(4).reject(lc.ConvSpec(18, 36, 3)).startswith("groups=4 must divide in_channels=18;")
    with pytest.raises(SettingError, match="groups=0 must be a whole number of at least 1"):
        Grouped(0)
