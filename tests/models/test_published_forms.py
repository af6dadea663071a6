"""Settings that change what a network computes and none of its tensors: the published form beside ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.core.notes import get_base
from leanconv.models.bases import drop_transition_relus_
from leanconv.models.octave_resnet import OctaveDown
from leanconv.models.resnet import PadShortcut

FORMS: dict[str, tuple[str, dict[str, Any], dict[str, Any], tuple[int, int, int, int]]] = {
    "shortcuts": ("resnet32", {}, {"shortcut_padding": "both"}, (1, 3, 32, 32)),
    "shortcuts under bases": ("basis_resnet32", {}, {"shortcut_padding": "both"}, (1, 3, 32, 32)),
    "shortcuts under splits": ("spconv_resnet20", {"shortcut": "A"}, {"shortcut_padding": "both"}, (1, 3, 32, 32)),
    "octaves": ("oct_resnet50", {"depths": (1, 1, 1, 1)}, {"down": "stride"}, (1, 3, 64, 64)),
    "transitions": ("densenet121_cifar", {}, {"transition_relu": False}, (1, 3, 32, 32)),
}


@pytest.mark.parametrize("what", FORMS)
def test_both_forms_have_the_same_tensors_and_other_outputs_and_are_built_again(what: str):
    name, settings, published, size = FORMS[what]
    torch.manual_seed(0)
    ours = lc.create_model(name, **settings).eval()
    theirs = lc.create_model(name, **settings, **published).eval()
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    theirs.load_state_dict(dict(ours.state_dict()))
    x = torch.randn(size)
    with torch.no_grad():
        assert (ours(x) - theirs(x)).norm() > 1e-3 * ours(x).norm()
        assert lc.count(theirs, size[1:]).params == lc.count(ours, size[1:]).params
        base = get_base(theirs)
        again = lc.create_model(base["name"], **base["kwargs"]).eval()
        again.load_state_dict(theirs.state_dict())
        assert torch.equal(again(x), theirs(x))


def test_where_the_zeros_stand():
    x = torch.arange(1.0, 4).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    for padding, wanted in (("end", [1, 2, 3, 0, 0, 0]), ("both", [0, 1, 2, 3, 0, 0])):
        out = PadShortcut(3, 2, padding)(x)
        assert out.shape == (1, 6, 2, 2) and out[0, :, 0, 0].tolist() == wanted
    assert "padding=both" in repr(PadShortcut(2, 2, "both"))


def test_a_pooled_octave_takes_even_means_before_its_convolutions():
    torch.manual_seed(0)
    conv = OctaveDown(4, 4, 1, down="pool")
    high, low = torch.randn(1, 2, 8, 8), torch.randn(1, 2, 4, 4)
    new_high, new_low = conv((high, low))
    pooled, down = nn.functional.avg_pool2d(high, 2), nn.functional.avg_pool2d(low, 2)
    torch.testing.assert_close(new_high, conv.high_to_high(pooled) + conv.low_to_high(low))
    torch.testing.assert_close(new_low, conv.high_to_low(nn.functional.avg_pool2d(pooled, 2)) + conv.low_to_low(down))
    conv.set_down("stride")
    assert conv.high_to_high.stride == (2, 2) and conv.low_to_high.stride == (1, 1)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet32", {"shortcut_padding": "left"}),
        ("oct_resnet50", {"down": "max"}),
        ("densenet121_cifar", {"transition_relu": 1}),
    ],
)
def test_another_form_is_refused(name: str, settings: dict[str, Any]):
    with pytest.raises(SettingError, match="must be"):
        lc.create_model(name, **settings)


def test_a_relu_that_is_no_part_of_the_norm_cannot_be_left_out():
    with pytest.raises(SettingError, match="take densenet121_cifar"):
        drop_transition_relus_(lc.create_model("torchvision/densenet121"))


@pytest.mark.parametrize(
    ("name", "setting", "value"), [("tied_resnet50", "blocks", 7), ("basis_resnext50", "unique", 100_000)]
)
def test_settings_that_no_builder_can_use_are_one_of_our_errors(name: str, setting: str, value: Any):
    with pytest.raises(SettingError, match=name):
        lc.create_model(name, **{setting: value})
