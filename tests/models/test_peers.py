"""The networks that the papers compare themselves with."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.files.load import MIGRATIONS
from leanconv.models import ModelEntry
from leanconv.models.octave_resnet import OctaveDown, OctaveResNet
from leanconv.models.peers import ENTRIES
from leanconv.models.spconv import imagenet_resnet
from leanconv.models.wide_resnet import PreActivationBlock, preact_resnet, wide_resnet
from leanconv.ops.lego import LegoConv2d

BY_NAME: dict[str, ModelEntry] = {entry.name: entry for entry in ENTRIES}


def build(name: str, **settings: object) -> nn.Module:
    entry = BY_NAME[name]
    return entry.builder(**(entry.settings | settings))


@cache
def empty(name: str, **settings: object) -> nn.Module:
    """Built once; not to be changed."""
    with torch.device("meta"):
        return build(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "params", "macs"),
    [
        ("ghost_vgg16", {}, 7_652_074, 158_699_520),
        ("ghost_resnet50", {}, 13_953_512, 2_151_023_360),
        ("het_vgg16", {}, 5_186_122, 105_845_760),
        ("het_vgg16", {"part": 8}, 3_551_818, 71_242_752),
        ("het_resnet50", {}, 18_012_200, 2_856_058_880),
        ("sha_resnet34", {}, 13_613_864, 3_663_761_408),
        ("sha_resnet50", {}, 20_469_800, 4_089_184_256),
        ("sha_resnet164", {}, 929_114, 244_500_992),
        ("wide_resnet28_10", {}, 36_479_194, 5_243_328_768),
        ("preact_resnet164", {}, 1_703_258, 244_500_992),
        ("soft_wide_resnet28_10", {}, 17_125_630, 5_243_328_768),
        ("soft_wide_resnet50_2", {}, 68_883_282, 11_398_021_120),
        ("fs_resnet18", {}, 813_727, 555_422_720),
        ("grouped_resnet50", {}, 17_733_672, 2_695_495_680),
        ("oct_resnet50", {}, 25_557_032, 2_367_143_936),
        ("oct_resnet50", {"alpha": 0}, 25_557_032, 4_089_184_256),
    ],
)
def test_counts(name, settings, params, macs):
    counted = lc.count(empty(name, **settings))
    assert (counted.params, counted.macs) == (params, macs)


@pytest.mark.parametrize(("splits", "ratio", "legos"), [(2, 0.5, 14_708_736 // 4), (4, 0.25, 14_708_736 // 16)])
def test_the_legos_alone_are_what_legonet_counts(splits, ratio, legos):
    model = empty("lego_vgg16", splits=splits, ratio=ratio)
    found = [module for module in model.modules() if isinstance(module, LegoConv2d)]
    assert len(found) == 12
    assert sum(module.weight.numel() for module in found) == legos


def converted(model: nn.Module) -> list[list[str]]:
    plan = lc.plan_of(model)
    assert plan is not None
    return [[site.name for site in group.sites] for group in plan.groups]


def test_which_convolutions_share():
    basic, bottleneck = converted(empty("sha_resnet34")), converted(empty("sha_resnet50"))
    assert [len(names) for names in basic] == [3, 4, 6, 3]  # each block's second one, the first block's too
    assert [len(names) for names in bottleneck] == [3, 3, 5, 2]  # those that halve the map stand alone
    for stage, names in enumerate(basic + bottleneck):
        assert all(name.startswith(f"layer{stage % 4 + 1}.") and name.endswith(".conv2") for name in names)
    small = converted(empty("sha_resnet164", depth=29))
    assert small == [[f"layer{stage}.{block}.conv2" for block in (1, 2)] for stage in (1, 2, 3)]
    soft = converted(empty("soft_wide_resnet28_10", widen=1))
    assert soft == [
        [f"layer{stage}.{block}.conv{conv}" for block in (1, 2, 3) for conv in (1, 2)] for stage in (1, 2, 3)
    ]
    wide = lc.plan_of(empty("soft_wide_resnet50_2"))
    assert [(len(group.sites), group.method.templates) for group in wide.groups] == [(2, 2), (3, 3), (5, 5), (2, 2)]


def test_a_shared_weight_is_every_users():
    model = build("sha_resnet164", depth=29)
    first, second = model.get_submodule("layer2.1.conv2"), model.get_submodule("layer2.2.conv2")
    with torch.no_grad():
        first.bank.weight.fill_(0.25)
    assert (second.weight_dense() == 0.25).all()
    assert not (model.get_submodule("layer3.1.conv2").weight_dense() == 0.25).any()
    lc.check(model)


def test_which_convolutions_are_left():
    def kept(name: str) -> list[str]:
        return [item.site.name for item in lc.plan_of(empty(name)).kept]

    assert kept("ghost_vgg16") == kept("het_vgg16") == kept("lego_vgg16") == ["block1.conv1"]
    assert kept("ghost_resnet50") == kept("lego_resnet50") == kept("fs_resnet50") == ["conv1"]
    assert not [name for name in kept("het_resnet50") if name.endswith("conv2")]
    grouped = kept("grouped_resnet50")
    assert len(grouped) == 53 - 32 and not [name for name in grouped if name.endswith(("0.conv1", "conv2"))]


SMALL = {
    "ghost_vgg16": {},
    "het_vgg16": {},
    "lego_vgg16": {},
    "sha_resnet164": {"depth": 20},
    "wide_resnet28_10": {"depth": 10, "widen": 1},
    "preact_resnet164": {"depth": 11},
    "soft_wide_resnet28_10": {"depth": 16, "widen": 1},
    "fs_resnet18": {"depths": (1, 1)},
    "oct_resnet50": {"depths": (1, 1, 1, 1)},
}


@pytest.mark.parametrize(("name", "settings"), SMALL.items())
def test_every_parameter_is_trained(name, settings):
    model = build(name, num_classes=7, in_chans=1, **settings).train()
    y = model(torch.randn(2, 1, 33, 31))
    assert y.shape == (2, 7)
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.dim() > 1)


def test_pre_activation():
    """The norm and the ReLU stand before the convolutions; a shortcut that changes the shape sees them too."""
    block = PreActivationBlock(4, 8, stride=2, reduction=4).eval()
    x = torch.randn(2, 4, 7, 6)
    out = block.bn1(x).relu()
    inner = block.conv2(block.bn2(block.conv1(out)).relu())
    expected = block.conv3(block.bn3(inner).relu()) + block.shortcut(out)
    torch.testing.assert_close(block(x), expected)
    assert expected.shape == (2, 8, 4, 3) and block.conv1.out_channels == 2
    plain = PreActivationBlock(4, 4, stride=1, reduction=1).eval()
    out = plain.conv1(plain.bn1(x).relu())
    torch.testing.assert_close(plain(x), x + plain.conv2(plain.bn2(out).relu()))


def test_an_octave_network_saved_with_strides_keeps_them():
    """Format 3 and older had strides as the default; a base without `down` means them."""
    old = {"base": {"name": "oct_resnet50", "kwargs": {"num_classes": 3}}}
    assert MIGRATIONS[3](old)["base"]["kwargs"] == {"down": "stride", "num_classes": 3}
    pooled = {"base": {"name": "oct_resnet50", "kwargs": {"down": "pool"}}}
    assert MIGRATIONS[3](pooled) == pooled
    other = {"base": {"name": "resnet20", "kwargs": {}}}
    assert MIGRATIONS[3](other) == other and MIGRATIONS[3]({"base": None}) == {"base": None}
    downs = [m for m in empty("oct_resnet50").modules() if isinstance(m, OctaveDown)]
    assert {m.down for m in downs} == {"pool"} and len(downs) == 6


def test_octaves_of_alpha_0_are_the_ordinary_network():
    octave = OctaveResNet(num_classes=5, depths=(1, 1, 1, 1), alpha=0, down="stride").eval()
    plain = imagenet_resnet("Bottleneck", (1, 1, 1, 1), 5).eval()
    for mine, other in zip(octave.state_dict().values(), plain.state_dict().values(), strict=True):
        mine.copy_(torch.rand_like(other) if other.dim() == 1 else other)
        other.copy_(mine)
    x = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(octave(x), plain(x))


def test_the_low_map_goes_down_as_it_is():
    conv = OctaveDown(4, 6, 3, alpha_in=0.5, alpha_out=0.5, down="stride").double()
    high, low = torch.randn(2, 2, 9, 6).double(), torch.randn(2, 2, 5, 3).double()
    new_high, new_low = conv((high, low))
    down = nn.functional.conv2d(high, conv.high_to_high.weight, stride=2, padding=1)
    torch.testing.assert_close(new_high, down + nn.functional.conv2d(low, conv.low_to_high.weight, padding=1))
    assert new_high.shape == (2, 3, 5, 3) and new_low.shape == (2, 3, 3, 2)
    whole, none = OctaveDown(4, 6, 1, alpha_in=0.5, alpha_out=0.0, down="stride")((high.float(), low.float()))
    assert whole.shape == (2, 6, 5, 3) and none is None


def test_pairs_end_before_the_last_stage():
    model = empty("oct_resnet50")
    x = model.maxpool(model.relu(model.bn1(model.conv1(torch.empty(1, 3, 65, 97, device="meta")))))
    pair, shapes = model.pair(x), []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        pair = stage(pair)
        shapes.append(tuple(None if part is None else tuple(part.shape[1:]) for part in pair))
    assert shapes == [
        ((128, 17, 25), (128, 9, 13)),
        ((256, 9, 13), (256, 5, 7)),
        ((512, 5, 7), (512, 3, 4)),
        ((2048, 3, 4), None),
    ]


def test_timm_cuts_where_maps_are_single():
    from timm.models import FeatureListNet

    cut = FeatureListNet(empty("oct_resnet50"), out_indices=(0, 1), flatten_sequential=False)
    maps = cut(torch.empty(1, 3, 64, 64, device="meta"))
    assert [tuple(y.shape) for y in maps] == [(1, 64, 32, 32), (1, 2048, 2, 2)]


@pytest.mark.parametrize("name", ["wide_resnet28_10", "oct_resnet50", "sha_resnet34"])
def test_what_timm_asks_of_a_network(name):
    model = copy.deepcopy(empty(name))
    assert model.default_input_size == BY_NAME[name].input_size
    for info in model.feature_info:
        assert isinstance(model.get_submodule(info["module"]), nn.Module)
    model.reset_classifier(11)
    assert model.num_classes == 11 == model.get_classifier().out_features


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: wide_resnet(depth=29), "depth=29 must be 6n + 4; 28 or 34 would do"),
        (lambda: wide_resnet(widen=0), "widen=0"),
        (lambda: preact_resnet(depth=9), "depth=9 must be 9n + 2; 11 or 20 would do"),
        (lambda: OctaveResNet(alpha=1.0), "alpha=1.0 must be a number of at least 0 and below 1"),
        (lambda: OctaveResNet(depths=(1, 2)), "must be four numbers of blocks"),
        (lambda: build("ghost_vgg16", expansion=0), "expansion=0"),
        (lambda: build("het_vgg16", part=0), "part=0"),
        (lambda: build("lego_vgg16", ratio=2), "ratio=2"),
        (lambda: build("fs_resnet18", ratio=0), "ratio=0"),
        (lambda: build("grouped_resnet50", groups=0), "groups=0"),
        (lambda: build("soft_wide_resnet28_10", templates=0), "templates=0"),
    ],
)
def test_errors_name_the_way_out(build, says):
    with torch.device("meta"), pytest.raises(SettingError) as caught:
        build()
    assert says in str(caught.value)
