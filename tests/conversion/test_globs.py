"""A glob that matches nothing is refused; a shared layer answers to each of its names."""

from __future__ import annotations

import pytest
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError


class Alias(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.head = self.body
        self.tail = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.tail(self.head(self.body(x)))


def converted(plan):
    return [site.name for group in plan.groups for site in group.sites]


def test_a_shared_layer_is_matched_by_any_of_its_names():
    assert converted(lc.plan(Alias(), lc.TiedBlock(), where="head")) == ["body"]
    assert converted(lc.plan(Alias(), lc.TiedBlock(), exclude="head")) == ["tail"]
    assert converted(lc.plan(Alias(), [("head", None), ("*", lc.TiedBlock())])) == ["tail"]
    assert lc.plan(Alias(), lc.TiedBlock(), stages={"head": 5}).groups[0].sites[0].stage == 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            dict(exclude="layer1.0.cnv1"),
            r"exclude='layer1.0.cnv1' matches none of the 9 convolutions \('layer1.0.conv1'",
        ),
        (dict(exclude=["conv1", "layr2*"]), r"exclude='layr2\*' matches none"),
        (dict(where=["layer1*", "layer9*"]), r"where='layer9\*' matches none of the 9 convolutions \('layer"),
        (dict(stages={"layer4*": 3}), r"stages='layer4\*' matches none"),
        (dict(where="fc"), "where='fc' matches none"),
        (
            dict(exclude="layer1"),
            r"exclude='layer1' matches no convolution but a module that holds some; write 'layer1.\*'",
        ),
        (dict(where="layer1.0"), r"write 'layer1.0.\*'"),
        (dict(exclude=""), r"write '\*'"),
        (dict(where=()), r"where=\(\) matches none"),
        (dict(where=lambda site: site.spec.kernel_size == (7, 7)), "matches none"),
        (dict(exclude=[1]), "must be a glob"),
        (dict(where=["*", lambda site: False]), "where=<function .* matches none of"),
    ],
)
def test_a_glob_that_matches_nothing_is_refused_with_the_nearest_names(settings, said):
    with pytest.raises(SettingError, match=said):
        lc.plan(lc.create_model("resnet8"), lc.TiedBlock(), **settings)


def test_each_rule_must_match():
    with pytest.raises(SettingError, match="where='layer7'"):
        lc.plan(lc.create_model("resnet8"), [("layer1*", lc.TiedBlock()), ("layer7", None)])


def test_exclude_may_name_a_layer_that_is_no_convolution():
    model = lc.create_model("resnet8")
    assert converted(lc.plan(model, lc.TiedBlock(4), exclude=["fc", "conv1"])) == converted(
        lc.plan(model, lc.TiedBlock(4), exclude="conv1")
    )


def test_a_function_is_asked_about_2d_convolutions_only():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 4, 3))
    assert converted(lc.plan(model, lc.TiedBlock(), lambda site: site.spec.stride == (1, 1))) == ["0"]
