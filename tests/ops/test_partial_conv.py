"""Partial convolution: what it computes, how it keeps the memory layout, and its fits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from tests.ops.moments import images, moments_of, output_error

pytestmark = pytest.mark.usefixtures("almost_no_ridge")


def test_the_first_channels_are_convolved_and_the_others_pass():
    torch.manual_seed(0)
    op = lc.PartialConv2d(8, 8, 3, padding=2, dilation=2, channels=3)
    nn.init.normal_(op.bias)
    x = torch.randn(2, 8, 7, 9)
    y = op(x)
    assert torch.equal(y[:, 3:], x[:, 3:])
    torch.testing.assert_close(y[:, :3], nn.functional.conv2d(x[:, :3], op.weight, op.bias, padding=2, dilation=2))


def test_the_papers_quarter_has_a_sixteenth_of_the_macs():
    """Chen et al. 2023, eq. 2 with ratio 1/4."""
    spec = lc.ConvSpec(64, 64, 3, padding=1, bias=False)
    assert lc.PartialConv().macs([spec], 0, (8, 8)) * 16 == spec.macs((8, 8))
    assert lc.PartialConv().params([spec]) * 16 == spec.params()
    assert lc.PartialConv(0.01).build([spec])[0].channels == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maps_and_gradients_keep_their_layout(layout):
    op = lc.PartialConv2d(8, 8, 3, padding=1, channels=2).to(memory_format=layout)
    x = torch.randn(2, 8, 6, 6).to(memory_format=layout).requires_grad_()
    middle, gradients = op(x), []
    middle.register_hook(gradients.append)
    y = op(middle)
    y.backward(torch.randn(2, 8, 6, 6).to(memory_format=layout))
    for tensor in (middle, y, *gradients, x.grad):
        assert tensor.is_contiguous(memory_format=layout)
    assert len(gradients) == 1


def test_what_changes_the_map_is_refused():
    method = lc.PartialConv()
    for spec, said in (
        (lc.ConvSpec(8, 16, 3, padding=1), "8 channels cannot pass unchanged as 16"),
        (lc.ConvSpec(8, 8, 3, padding=1, groups=2), "groups=2"),
        (lc.ConvSpec(8, 8, 3, 2, 1), "the stride must be 1"),
        (lc.ConvSpec(8, 8, 3), "moves the map"),
        (lc.ConvSpec(8, 8, (2, 1), padding=(1, 0)), "moves the map"),
        (lc.ConvSpec(8, 8, 2, padding=1, dilation=2), "moves the map"),  # keeps the size, and has no tap at the centre
    ):
        assert said in method.reject(spec)
        with pytest.raises(SettingError, match=said):
            lc.PartialConv2d(**spec.kwargs())
    with pytest.raises(SettingError, match="channels=9 must not exceed in_channels=8"):
        lc.PartialConv2d(8, 8, 3, padding=1, channels=9)
    assert method.reject(lc.ConvSpec(8, 8, 1)) is None


@pytest.mark.parametrize("bias", [False, True])
def test_the_fit_to_moments_is_least_squares_on_the_first_channels(bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, padding=1, bias=bias).double()
    x, method = images(8), lc.PartialConv(0.5)
    plain, module = (method.build([lc.ConvSpec.of(conv)])[0].double() for _ in range(2))
    with torch.no_grad():
        method.fit_([plain], [conv])
        method.fit_([module], [conv], [moments_of(conv, x)])
        if not bias:  # the error is a sum over outputs, and the last four cannot be fitted
            assert torch.equal(plain.weight, conv.weight[:4, :4])
    u = nn.functional.unfold(x[:, :4], 3, padding=1).transpose(1, 2).flatten(0, 1)
    if bias:
        u = torch.cat([u, torch.ones_like(u[:, :1])], 1)
    y = conv(x)[:, :4].flatten(2).transpose(1, 2).flatten(0, 1)
    best = torch.linalg.lstsq(u, y).solution
    torch.testing.assert_close(module.weight.flatten(1), best[:36].T, rtol=1e-3, atol=1e-4)
    if bias:
        torch.testing.assert_close(module.bias, best[36], rtol=1e-3, atol=1e-4)
    assert output_error(module, conv, x) < output_error(plain, conv, x)
