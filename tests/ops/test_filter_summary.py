"""Filters as windows of one vector."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("groups", [1, 2])
def test_windows_are_evenly_spaced_and_the_last_one_ends_the_summary(ratio, groups):
    op = lc.FilterSummaryConv2d(6, 10, 3, padding=1, groups=groups, ratio=ratio)
    length, step = 54 // groups, op.window_stride
    summary = op.summary.detach()
    for f, kernel in enumerate(op.weight_dense()):
        assert torch.equal(kernel.flatten(), summary[f * step : f * step + length])
    assert len(summary) == 9 * step + length
    # The whole stride nearest to the ratio; one filter's weights is the least, 10 filters' the most
    steps = {s: abs(9 * s + length - ratio * 10 * length) for s in range(1, length + 1)}
    assert steps[step] == min(steps.values())


def test_wide_layers_are_near_their_ratio():
    for ratio in (0.05, 0.25, 0.7):
        op = lc.FilterSummary(ratio).build([lc.ConvSpec(64, 128, 3)])[0]
        assert op.summary.numel() == pytest.approx(ratio * 64 * 128 * 9, rel=0.02)
    assert lc.FilterSummaryConv2d(8, 1, 3).summary.numel() == 72
    assert lc.FilterSummaryConv2d(8, 4, 3, ratio=1e-9).summary.numel() == 75  # never the same filter twice


def test_overlapping_filters_share_their_gradients():
    op = lc.FilterSummaryConv2d(2, 3, 3, bias=False, ratio=0.5).double()
    conv = op.to_conv()
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    for layer in (op, conv):
        layer(x).square().sum().backward()
    wanted = torch.zeros_like(op.summary)
    for f, gradient in enumerate(conv.weight.grad.flatten(1)):
        wanted[f * op.window_stride : f * op.window_stride + 18] += gradient
    torch.testing.assert_close(op.summary.grad, wanted)


def test_fit_is_the_mean_over_the_windows():
    conv = nn.Conv2d(2, 3, 1)
    op = lc.FilterSummaryConv2d(2, 3, 1, ratio=2 / 3)  # four weights, one step from filter to filter
    assert op.window_stride == 1
    with torch.no_grad():
        lc.FilterSummary(2 / 3).fit_([op], [conv])
        (a, b), (c, d), (e, f) = conv.weight.flatten(1)
        torch.testing.assert_close(op.summary, torch.stack([a, (b + c) / 2, (d + e) / 2, f]))
    assert torch.equal(op.bias, conv.bias)


@pytest.mark.parametrize("ratio", [0, 1.5, True, "half", float("nan")])
def test_refusals_say_why(ratio):
    with pytest.raises(SettingError, match=r"ratio=.* must be a number above 0 and at most 1"):
        lc.FilterSummary(ratio)
    with pytest.raises(SettingError, match=r"ratio=.* must be a number above 0 and at most 1"):
        lc.FilterSummaryConv2d(4, 4, 3, ratio=ratio)
