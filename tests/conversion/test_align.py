"""Whole vectors: the widths inside an aligned operator are multiples, or the plan says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.core.operator import ConvOp
from leanconv.core.spec import ConvSpec
from leanconv.data import open_data
from leanconv.experiment.job import Job
from leanconv.inference.fast_path import slow_layers
from leanconv.ops import find_method, list_methods

WIDE, NARROW = ConvSpec(64, 64, 3, padding=1), ConvSpec(16, 16, 3, padding=1)


@pytest.mark.parametrize("name", list_methods())
def test_every_method_keeps_whole_vectors_or_says_why_not(name: str):
    method = find_method(name)()
    for spec in (WIDE, NARROW, ConvSpec(3, 16, 3, padding=1), ConvSpec(64, 128, 1), ConvSpec(72, 72, 3, padding=1)):
        own = method.aligned(spec, 16)
        if isinstance(own, str):
            assert own and "\n" not in own
        elif own.reject(spec) is None:
            assert type(own) is type(method)
            (module,) = own.build([spec])
            slow = slow_layers(nn.Sequential(module), "openvino")
            assert not slow or spec.out_channels == 72, (own, spec, slow)
    assert not isinstance(method.aligned(WIDE, 1), str) or method.aligned(WIDE, 1) == method


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        (lc.TiedBlock(8), lc.TiedBlock(4)),
        (lc.TiedBlock(3), lc.TiedBlock(2)),
        (lc.Grouped(8), lc.Grouped(4)),
        (lc.Split(0.4, groups=2), lc.Split(0.5, groups=2)),
        (lc.Split(0.25, groups=2), lc.Split(0.5, groups=2)),
        (lc.Split(0.25, groups=1), lc.Split(0.25, groups=1)),
        (lc.LowRank(rank=40), lc.LowRank(rank=32)),
        (lc.LowRank(rank=9), None),
        (lc.PartialConv(0.3), lc.PartialConv(0.25)),
        (lc.SharedBasis(shared=8, unique=1), lc.SharedBasis(shared=15, unique=1)),
        (lc.DepthShared(), lc.DepthShared()),
        (lc.Lego(splits=2, ratio=0.4), lc.Lego(splits=2, ratio=0.5)),
        (lc.Ghost(expansion=3), lc.Ghost(expansion=2)),
        (lc.Het(8), lc.Het(4)),
    ],
    ids=lambda value: "none" if value is None else value.label(),
)
def test_the_nearest_settings_of_whole_vectors(method: lc.Method, wanted: lc.Method | None):
    found = method.aligned(WIDE, 16)
    assert (isinstance(found, str) and "align=16" in found) if wanted is None else found == wanted


def test_a_plan_says_what_it_chose_and_what_stays_dense():
    net = lc.create_model("resnet20")
    made = lc.plan(net, lc.TiedBlock(8), exclude="conv1", align=16)
    chosen = {site.name: group.method for group in made.groups for site in group.sites}
    assert chosen["layer2.0.conv2"] == lc.TiedBlock(2) and chosen["layer3.0.conv2"] == lc.TiedBlock(4)
    reasons = {kept.site.name: kept.reason for kept in made.kept}
    assert reasons["layer1.0.conv1"] == (
        "no blocks from 2 to 8 have widths in multiples of align=16 channels in 3x3 16->16; a smaller align would"
    )
    assert type(made).from_json(json.loads(json.dumps(made.to_json()))) == made
    lean = lc.convert(net, made)
    assert all(op.in_channels // op.blocks % 16 == 0 for op in lean.modules() if isinstance(op, ConvOp))
    assert lc.plan(net, lc.TiedBlock(8), exclude="conv1", align=None) == lc.plan(net, lc.TiedBlock(8), exclude="conv1")
    with pytest.raises(SettingError, match="align=0 must be a whole number of at least 1"):
        lc.plan(net, lc.TiedBlock(2), align=0)


def test_a_reason_of_the_method_itself_comes_first():
    made = lc.plan(nn.Conv2d(16, 32, 1), lc.Split(), input_size=(16, 8, 8), align=16)
    assert made.kept[0].reason == "a 1x1 convolution already is the cheap branch"


def test_linear_layers_are_aligned_too():
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    (group,) = lc.plan(net, lc.TiedBlock(8), include="linear", align=16).groups
    assert group.method == lc.TiedBlock(4)


def test_a_run_notes_the_alignment_only_where_there_is_one(tmp_path: Path):
    data = open_data("digits")
    config = lc.TrainConfig(epochs=1, threads=1)
    plain = Job("resnet8", lc.TiedBlock(8), data, config)
    aligned = Job("resnet8", lc.TiedBlock(8), data, config, align=16)
    assert "align" not in plain.identity() and aligned.identity()["align"] == 16
    assert aligned.request(nn.Identity())["align"] == 16  # type: ignore[index]
    torch.manual_seed(0)
    methods = {group.method for group in lc.plan_of(aligned.build()).groups}  # type: ignore[union-attr]
    assert methods == {lc.TiedBlock(2), lc.TiedBlock(4)}
