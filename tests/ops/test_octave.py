"""Octave convolutions path by path."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.ops.octave import low_channels

HALVED = [(8, 8), (7, 9), (1, 1), (2, 5)]


def pair(channels: int, alpha: float, size: tuple[int, int], n: int = 2) -> tuple[torch.Tensor, torch.Tensor | None]:
    low, (h, w) = low_channels(channels, alpha), size
    small = torch.randn(n, low, -(-h // 2), -(-w // 2), dtype=torch.float64) if low else None
    return torch.randn(n, channels - low, h, w, dtype=torch.float64), small


@pytest.mark.parametrize("size", HALVED)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("alpha_in", "alpha_out"), [(0.5, 0.5), (0.25, 0.5), (0, 0.5), (0.5, 0), (0, 0)])
def test_four_paths(alpha_in, alpha_out, stride, size):
    op = lc.OctaveConv2d(8, 12, 3, stride, 1, alpha_in=alpha_in, alpha_out=alpha_out).double()
    for parameter in op.parameters():
        nn.init.normal_(parameter)
    high, low = pair(8, alpha_in, size)
    found_high, found_low = op((high, low))
    wanted = F.conv2d(high, op.high_to_high.weight, op.high_to_high.bias, stride, 1)
    if low is not None:
        up = F.conv2d(low, op.low_to_high.weight, None, stride, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
        wanted = wanted + up[:, :, : wanted.shape[2], : wanted.shape[3]]
    torch.testing.assert_close(found_high, wanted)
    assert found_high.shape[2:] == tuple(-(-s // stride) for s in size)
    if not alpha_out:
        assert found_low is None and op.high_to_low is None
        return
    rows, columns = (range(0, s, 2) for s in size)
    pooled = torch.stack(
        [torch.stack([high[:, :, r : r + 2, c : c + 2].mean((2, 3)) for c in columns], -1) for r in rows], -2
    )
    wanted = F.conv2d(pooled, op.high_to_low.weight, op.high_to_low.bias, stride, 1)
    if low is not None:
        wanted = wanted + F.conv2d(low, op.low_to_low.weight, None, stride, 1)
    torch.testing.assert_close(found_low, wanted)
    assert found_low.shape[2:] == tuple(-(-s // 2) for s in found_high.shape[2:])


@pytest.mark.parametrize("alpha", [0, 0.125, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_stay_and_macs_fall_as_in_the_paper(alpha, stride, bias):
    op = lc.OctaveConv2d(16, 32, 3, stride, 1, bias=bias, alpha_in=alpha, alpha_out=alpha).double()
    dense = lc.ConvSpec(16, 32, 3, stride, 1, bias=bias)
    assert sum(p.numel() for p in op.parameters()) == dense.params()

    class Whole(nn.Module):
        """Pairs made of one map, for the counter."""

        def __init__(self):
            super().__init__()
            self.conv = op

        def forward(self, x):
            low = x[:, : op.low_in, ::2, ::2] if op.low_in else None
            return self.conv((x[:, op.low_in :], low))

    output = 16 // stride
    macs = lc.count(Whole(), (16, 16, 16)).macs
    assert macs == 9 * 16 * 32 * output**2 * (1 - 0.75 * alpha * (2 - alpha))


@pytest.mark.parametrize("settings", [dict(padding=1), dict(stride=2), dict(groups=2, dilation=2), dict(bias=False)])
def test_without_low_maps_it_is_conv2d(settings):
    op = lc.OctaveConv2d(8, 12, 3, **settings, alpha_in=0, alpha_out=0)
    conv = nn.Conv2d(8, 12, 3, **settings)
    conv.load_state_dict({key.removeprefix("high_to_high."): value for key, value in op.state_dict().items()})
    x = torch.randn(2, 8, 9, 7)
    high, low = op((x, None))
    assert low is None and torch.equal(high, conv(x))


def test_gradients_layout_and_export():
    op = lc.OctaveConv2d(4, 6, 3, 2, 1).double().eval()
    x = pair(4, 0.5, (5, 4))
    assert torch.autograd.gradcheck(
        lambda high, low: op((high, low)), tuple(t.requires_grad_() for t in x), fast_mode=True
    )
    last = tuple(t.detach().to(memory_format=torch.channels_last) for t in x)
    for ours, plain in zip(op.to(memory_format=torch.channels_last)(last), op(x), strict=True):
        torch.testing.assert_close(ours, plain)
    exported = torch.export.export(op, (last,)).module()
    for ours, plain in zip(exported(last), op(last), strict=True):
        torch.testing.assert_close(ours, plain)


def test_refusals_say_why():
    with pytest.raises(SettingError, match=r"alpha_in=1\.0 must be a number of at least 0 and below 1"):
        lc.OctaveConv2d(8, 8, 3, padding=1, alpha_in=1.0)
    with pytest.raises(SettingError, match=r"alpha_out='half' must be a number"):
        lc.OctaveConv2d(8, 8, 3, padding=1, alpha_out="half")
    with pytest.raises(SettingError, match=r"alpha_in=0\.9 leaves no high map of 2 channels; 0\.5 would"):
        lc.OctaveConv2d(2, 8, 3, padding=1, alpha_in=0.9)
    with pytest.raises(SettingError, match="groups=2 must be 1: every output channel sees both maps"):
        lc.OctaveConv2d(8, 8, 3, padding=1, groups=2)
    with pytest.raises(SettingError, match="the sizes of the two maps do not match; padding of"):
        lc.OctaveConv2d(8, 8, 3)


@pytest.mark.parametrize("stride", [1, 2])
def test_exports_with_named_sizes_and_takes_one_pair_without_a_batch(stride):
    class Rest(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = lc.OctaveConv2d(4, 8, 3, stride, 1, alpha_in=0, alpha_out=0.5)
            self.second = lc.OctaveConv2d(8, 8, 3, stride, 1)
            self.last = lc.OctaveConv2d(8, 6, 3, 1, 1, alpha_out=0)

        def forward(self, x):
            return self.last(self.second(self.first((x, None))))[0]

    net = Rest().double().eval()
    sizes = {0: torch.export.Dim("n", min=1), 2: torch.export.Dim("h", min=12), 3: torch.export.Dim("w", min=12)}
    x = torch.randn(2, 4, 16, 20, dtype=torch.float64)
    exported = torch.export.export(net, (x,), dynamic_shapes=(sizes,)).module()
    for size in ((16, 20), (13, 17), (15, 14), (26, 33)):
        x = torch.randn(3, 4, *size, dtype=torch.float64)
        torch.testing.assert_close(exported(x), net(x))
        torch.testing.assert_close(net(x[0]), net(x)[0])
