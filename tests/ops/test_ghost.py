"""Ghost modules branch by branch, their counts and their fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from tests.ops.contract import unsettle_


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize(("expansion", "out"), [(2, 8), (2, 7), (3, 7)])
def test_maps_are_made_of_the_primary_ones(norm, activation, expansion, out):
    op = lc.GhostConv2d(6, out, 3, 2, 1, expansion=expansion, cheap_kernel_size=5, norm=norm, activation=activation)
    unsettle_(op.eval())
    x = torch.randn(2, 6, 9, 7)

    def finished(y, branch):
        y = branch.norm(y) if norm else y + branch.conv.bias[:, None, None]
        return y.relu() if activation else y

    width = -(-out // expansion)
    primary = finished(nn.functional.conv2d(x, op.primary.conv.weight, None, 2, 1), op.primary)
    assert primary.shape[1] == width
    cheap = [  # s - 1 in a row from each primary map
        nn.functional.conv2d(primary[:, i // (expansion - 1)][:, None], kernel[None], padding=2)
        for i, kernel in enumerate(op.cheap.conv.weight)
    ]
    wanted = torch.cat([primary, finished(torch.cat(cheap, 1), op.cheap)], 1)
    torch.testing.assert_close(op(x), wanted[:, :out])


@pytest.mark.parametrize(
    ("settings", "vgg16", "resnet50"),
    [
        (dict(), 7_660_394, 14_006_504),
        (dict(norm=False), 7_652_074, 13_953_512),
        (dict(expansion=4, norm=False), 3_984_250, 8_151_752),
    ],
)
def test_the_peers_of_spconv_have_these_counts(settings, vgg16, resnet50):
    """SPConv prints 7.7 M (Table 1) and 13.0 M (Table 2); the second is not met in either form."""
    with torch.device("meta"):
        vgg = lc.create_model("vgg16", conv_bias=False)
        resnet = lc.create_model("torchvision/resnet50")
    lean = lc.convert(vgg, lc.plan(vgg, lc.Ghost(**settings), exclude="block1.conv1"))
    assert lc.count(lean).params == vgg16
    if settings == dict(norm=False):
        assert lc.count(lean).macs == 158_699_520
    lean = lc.convert(resnet, lc.plan(resnet, lc.Ghost(**settings), exclude="conv1"))
    assert sum(parameter.numel() for parameter in lean.parameters()) == resnet50


@pytest.mark.parametrize("host", [dict(padding=1), dict(padding=2, dilation=2, stride=2)])
def test_fit_keeps_the_primary_maps_and_is_least_squares_for_the_others(host):
    conv = nn.Conv2d(4, 7, 3, **host, bias=False).double()
    method = lc.Ghost(expansion=2, norm=False, activation=False)
    op = method.build([lc.ConvSpec.of(conv)])[0].double()
    with torch.no_grad():
        method.fit_([op], [conv])
    x = torch.randn(1, 4, 40, 40, dtype=torch.float64)
    torch.testing.assert_close(op(x)[:, :4], conv(x)[:, :4])
    # Over the impulses at all places of an input channel, squared errors are those of the weights. The borders are
    # left out of account: the impulses stay away from them.
    impulses = torch.zeros(4, 4, 8, 8, 40, 40, dtype=torch.float64)
    for channel in range(4):
        for row in range(8):
            for column in range(8):
                impulses[channel, channel, row, column, 16 + row, 16 + column] = 1
    impulses = impulses.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)

    def error() -> float:
        return (op(impulses) - conv(impulses))[:, 4:].square().sum().item()

    best = error()
    torch.manual_seed(1)
    weight = op.cheap.conv.weight
    with torch.no_grad():
        before = weight.clone()
        for size in (1e-1, 1e-2, 1e-3):
            weight.copy_(before + size * torch.randn_like(before))
            assert error() > best
        weight.copy_(before)
        weight[:, :, torch.arange(3) != 1] = 0
        assert error() > best  # more than a multiple of the primary map


def test_fit_recovers_a_ghost_module():
    """Where the other filters are multiples of the primary ones, the fit is exact, inner norms and biases included."""
    conv = nn.Conv2d(3, 6, 3, padding=1).double()
    with torch.no_grad():
        conv.weight[3:] = conv.weight[:3] * torch.tensor([2.0, -1.0, 0.5])[:, None, None, None]
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for norm in (True, False):
        method = lc.Ghost(norm=norm, activation=False)
        op = method.build([lc.ConvSpec.of(conv)])[0].double().eval()
        with torch.no_grad():
            method.fit_([op], [conv])
        torch.testing.assert_close(op(x), conv(x))


def test_one_map_out_of_each_is_the_primary_convolution_alone():
    op = lc.GhostConv2d(4, 6, 3, expansion=1)
    assert op.cheap is None and op.primary.conv.weight.shape == (6, 4, 3, 3)
    assert op(torch.randn(1, 4, 5, 5)).shape == (1, 6, 3, 3)


def test_refusals_say_why():
    with pytest.raises(
        SettingError, match="kernel_size=4 must be odd, so that the cheap maps keep the size; 3 or 5 would"
    ):
        lc.Ghost(kernel_size=4)
    with pytest.raises(SettingError, match="expansion=0 must be a whole number of at least 1"):
        lc.Ghost(expansion=0)
    with pytest.raises(SettingError, match="norm=1 must be true or false"):
        lc.Ghost(norm=1)
    with pytest.raises(SettingError, match="groups=2; the primary filters of a ghost module see all input channels"):
        lc.GhostConv2d(4, 4, 3, groups=2)


def test_fit_gives_every_map_the_bias_it_had():
    """A cheap filter also sees its primary map's bias: on an empty image, away from the border, nothing of it is left."""
    conv = nn.Conv2d(4, 7, 3, padding=1)
    method = lc.Ghost(norm=False, activation=False)
    op = method.build([lc.ConvSpec.of(conv)])[0]
    with torch.no_grad():
        method.fit_([op], [conv])
    torch.testing.assert_close(op(torch.zeros(1, 4, 5, 5))[0, :, 2, 2], conv.bias)
