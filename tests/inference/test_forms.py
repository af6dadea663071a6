"""Every form computes what its operator computes, over the awkward specs, with and without a norm behind it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.inference.affine import Affine
from leanconv.inference.forms import forms_of
from tests.ops.contract import ACCEPTED, SPECS, image, unsettle_


def settled(module: nn.Module) -> nn.Module:
    module = module.double().eval()
    unsettle_(module)
    return module


@pytest.mark.parametrize(("method", "name"), ACCEPTED, ids=lambda value: getattr(value, "label", lambda: value)())
def test_forms_are_equal(method, name):
    spec = SPECS[name]
    op = settled(method.build([spec])[0])
    norm = settled(nn.BatchNorm2d(spec.out_channels))
    x = image(spec, (9, 7), n=2)
    with torch.no_grad():
        plain = op(x)
        for affine, expected in ((None, plain), (Affine.of(norm), norm(plain))):
            for build in forms_of(op, affine).values():
                torch.testing.assert_close(build()(x), expected)


def test_a_norm_that_switches_a_channel_off():
    """Scale 0 behind a gate: what the gate would have seen is lost, and does not matter."""
    op, norm = settled(lc.SplitConv2d(8, 8, 3, padding=1)), settled(nn.BatchNorm2d(8))
    x = torch.randn(2, 8, 5, 6).double()
    with torch.no_grad():
        norm.weight[3] = 0
        for build in forms_of(op, Affine.of(norm)).values():
            torch.testing.assert_close(build()(x), norm(op(x)))


def names(op: lc.ConvOp) -> list[str]:
    return list(forms_of(op.eval()))


def test_which_forms_there_are():
    assert names(lc.TiedBlockConv2d(8, 8, 3, blocks=4)) == ["grouped", "grouped(2)", "dense", "batch", "module"]
    assert names(lc.TiedBlockConv2d(8, 8, 1, blocks=2))[2:5] == ["batch", "rows", "product"]
    assert "batch" not in names(lc.TiedBlockConv2d(8, 8, 3, groups=2, blocks=2))
    assert names(lc.SharedBasisConv2d(8, 8, 3, shared=3)) == ["factors", "factors, padded", "dense", "module"]
    assert names(lc.SharedBasisConv2d(8, 8, 3, shared=15))[:2] == ["factors", "dense"]
    assert names(lc.SplitConv2d(8, 8, 3, padding=1)) == ["branches", "merged", "module"]
    assert names(lc.SplitConv2d(8, 8, 3, 2, 1)) == ["branches", "module"]
    assert names(lc.LegoConv2d(8, 8, 3)) == ["dense", "module"]


def test_what_borrows_its_weight_has_no_form_that_moves_alone():
    owner, user = lc.DepthShared().build([lc.ConvSpec(8, 8, 3), lc.ConvSpec(8, 8, 3)])
    assert names(owner) == ["dense", "module"] and names(user) == ["dense"]


def test_a_form_does_not_touch_the_operator():
    op = lc.TiedBlockConv2d(8, 8, 1, blocks=2).eval()
    before = op.weight.detach().clone()
    for build in forms_of(op).values():
        for parameter in build().parameters():
            if parameter is not op.weight and parameter is not op.bias:
                parameter.data.fill_(7.0)
    assert torch.equal(op.weight, before)


def test_the_tied_fold_takes_any_batch():
    op = settled(lc.TiedBlockConv2d(8, 8, 1, stride=2, bias=True, blocks=2))
    for build in forms_of(op).values():
        module = build()
        for n, size in ((1, 6), (3, 5)):
            x = torch.randn(n, 8, size, size).double()
            torch.testing.assert_close(module(x), op(x))


def test_errors_of_the_host_stay():
    with pytest.raises(SettingError):
        lc.TiedBlockConv2d(9, 8, 3, blocks=2)
