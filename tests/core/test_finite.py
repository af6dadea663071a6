"""NaN and infinity in weights that others are made from."""

from __future__ import annotations

import math

import pytest
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["weight", "bias"])
@pytest.mark.parametrize("method", lc.METHODS)
def test_a_fit_to_nan_or_infinity_names_the_layer(method, kind, value):
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1))
    plan = lc.plan(model, method(), input_size=(16, 8, 8))
    getattr(model[1], kind).data.view(-1)[3] = value
    with pytest.raises(SettingError, match=rf"1 of the \d+ values of '1\.{kind}' are NaN or infinite"):
        lc.convert(model, plan, init="fit")
    assert plan.groups and lc.convert(model, plan)  # a fresh start reads no values


def test_a_norm_with_a_negative_variance_has_no_dense_weight():
    op = lc.SharedBasisConv2d(8, 8, 3, padding=1).eval()
    assert op.to_conv().weight.isfinite().all()
    op.norm.running_var[0] = -1.0
    with pytest.raises(SettingError, match="negative running variance"):
        op.to_conv()
