from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError


def test_reads_every_setting_of_a_conv():
    settings = dict(
        kernel_size=(3, 1), stride=(1, 2), padding=(1, 0), dilation=(2, 1), groups=2, padding_mode="reflect"
    )
    conv = nn.Conv2d(4, 6, bias=False, **settings)
    spec = lc.ConvSpec.of(conv)
    assert spec.kwargs() == {"in_channels": 4, "out_channels": 6, "bias": False, **settings}
    assert nn.Conv2d(**spec.kwargs()).weight.shape == spec.weight_shape == conv.weight.shape


def test_valid_is_no_padding_and_same_stays():
    assert lc.ConvSpec.of(nn.Conv2d(1, 1, 3, padding="valid")).padding == (0, 0)
    assert lc.ConvSpec.of(nn.Conv2d(1, 1, 3, padding="same")).padding == "same"


@pytest.mark.parametrize("kernel", [(2, 4), (3, 3), (4, 1)])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_pads_are_where_torch_puts_them(kernel, dilation):
    """For a padding mode other than zeros this library pads by itself: "same" must land as in nn.Conv2d."""
    spec = lc.ConvSpec(1, 1, kernel, padding="same", dilation=(dilation, dilation), bias=False)
    conv = nn.Conv2d(**spec.kwargs()).double()
    x = torch.randn(1, 1, 11, 12, dtype=torch.float64)
    padded = nn.functional.pad(x, spec.pads)
    ours = nn.functional.conv2d(padded, conv.weight, dilation=dilation)
    torch.testing.assert_close(ours, conv(x))
    assert spec.keeps_size


def test_counts_by_hand():
    spec = lc.ConvSpec(8, 16, 3, groups=2, bias=True)
    assert spec.fan_in == 4 * 9
    assert spec.params() == 16 * 36 + 16
    assert spec.macs((5, 7)) == 16 * 36 * 35


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(in_channels=0), "in_channels=0 must be a whole number of at least 1"),
        (dict(out_channels=True), "out_channels=True must be"),
        (dict(groups=3), "groups=3 must divide in_channels=8 and out_channels=16; 1, 2, 4 or 8 would"),
        (dict(kernel_size=(3, 3, 3)), r"kernel_size=\(3, 3, 3\) must be one whole number or two"),
        (dict(kernel_size=2.5), "kernel_size=2.5 must be"),
        (dict(stride=0), r"stride=\(0, 0\) must be at least 1"),
        (dict(padding=-1), r"padding=\(-1, -1\) must be at least 0"),
        (dict(padding="same", stride=2), "padding='same' needs stride 1"),
        (dict(padding="full"), "padding='full'"),
        (dict(padding_mode="mirror"), "padding_mode='mirror' must be 'zeros', 'reflect'"),
    ],
)
def test_bad_settings_name_value_rule_and_way_out(settings, message):
    with pytest.raises(SettingError, match=message):
        lc.ConvSpec(**{"in_channels": 8, "out_channels": 16, "kernel_size": 3, **settings})


@pytest.mark.parametrize(
    ("kernel_size", "padding", "dilation", "keeps"),
    [
        ((3, 5), (1, 2), 1, True),
        ((3, 5), (1, 1), 1, False),  # the rows fit and the columns do not
        ((3, 5), (0, 2), 1, False),
        (3, 2, 2, True),
        (3, 1, 2, False),
    ],
)
def test_a_size_is_kept_in_both_directions_or_not_at_all(kernel_size, padding, dilation, keeps):
    spec = lc.ConvSpec(4, 4, kernel_size, padding=padding, dilation=dilation)
    assert spec.keeps_size == keeps
    conv = torch.nn.Conv2d(4, 4, kernel_size, padding=padding, dilation=dilation)
    assert (conv(torch.zeros(1, 4, 9, 9)).shape[2:] == (9, 9)) == keeps
