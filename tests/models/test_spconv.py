"""The networks of the SPConv paper: counts to the last digit, and maps of any size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.models import ModelEntry
from leanconv.models.spconv import ENTRIES, ParallelConv2d
from leanconv.ops.split import SplitConv2d
from leanconv.papers.conventions import Counted, early_thop
from leanconv.papers.tally import tally

BY_NAME: dict[str, ModelEntry] = {entry.name: entry for entry in ENTRIES}


def build(name: str, **settings: object) -> nn.Module:
    entry = BY_NAME[name]
    return entry.builder(**(entry.settings | settings))


def empty(name: str, **settings: object) -> nn.Module:
    with torch.device("meta"):
        return build(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "params", "macs", "operations"),
    [
        ("spconv_resnet20", {}, 105_082, 15_188_608, 17_908_342),
        ("spconv_resnet20", {"ratio": 0.25}, 71_674, 10_175_104, 12_894_838),
        ("spconv_resnet20", {"representative": "chain"}, 122_490, 17_678_976, 20_389_494),
        ("spconv_resnet20", {"representative": "full"}, 157_050, 22_987_392, 25_697_910),
        ("spconv_resnet20", {"fusion": False}, 105_082, 15_188_608, 17_562_934),
        ("spconv_resnet20", {"redundant": False}, 88_218, 12_960_384, 14_465_334),
        ("spconv_vgg16", {}, 5_611_338, 114_496_512, 118_266_486),
        ("spconv_vgg16", {"ratio": 1 / 16}, 2_393_802, 46_371_840, 50_141_814),
        ("spconv_vgg16_printed_baseline", {}, 16_622_090, 348_066_816, 349_508_086),
        ("spconv_resnet50", {}, 18_345_448, 2_907_439_104, 2_969_757_080),
        ("spconv_resnet50", {"ratio": 1 / 8}, 16_223_464, 2_560_622_592, 2_622_940_568),
        ("resnet50_backbone", {}, 23_508_032, 4_087_136_256, 4_131_592_192),
        ("spconv_resnet50_backbone", {}, 16_296_448, 2_905_391_104, 2_965_559_680),
    ],
)
def test_counts(name, settings, params, macs, operations):
    model = empty(name, **settings)
    counted = lc.count(model)
    assert (counted.params, counted.macs) == (params, macs)
    assert early_thop(Counted(model, tally(model, BY_NAME[name].input_size))) == operations


@pytest.mark.parametrize(
    ("name", "converted", "kept"),
    [("spconv_resnet20", 18, {"conv1"}), ("spconv_vgg16", 12, {"block1.conv1"}), ("spconv_resnet50", 16, {"conv1"})],
)
def test_every_3x3_but_the_first_is_split(name, converted, kept):
    plan = lc.plan_of(empty(name))
    assert plan is not None and len(plan.groups) == converted
    assert {site.spec.kernel_size for group in plan.groups for site in group.sites} == {(3, 3)}
    assert {item.site.name for item in plan.kept if not item.site.spec.pointwise} == kept


def test_the_settings_are_the_splits():
    settings = {"ratio": 0.25, "groups": 4, "fusion": False, "representative": "chain", "redundant": False}
    for name in ("spconv_resnet20", "spconv_vgg16", "spconv_resnet50", "spconv_resnet50_backbone"):
        plan = lc.plan_of(empty(name, **settings))
        assert {group.method for group in plan.groups} == {lc.Split(**settings)}
        with pytest.raises(SettingError, match="ratio=0 must be a number above 0"):
            empty(name, ratio=0)


@pytest.mark.parametrize("name", ["spconv_resnet20", "spconv_vgg16", "spconv_vgg16_printed_baseline"])
def test_every_parameter_is_trained(name):
    torch.manual_seed(0)
    model = build(name, num_classes=7, in_chans=1).train()
    y = model(torch.randn(2, 1, 32, 32))
    assert y.shape == (2, 7)
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    # Two biases before a norm move nothing; every weight does
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.dim() > 1)


def test_the_printed_baseline_is_a_plain_vgg16_in_disguise():
    torch.manual_seed(0)
    printed = build("spconv_vgg16_printed_baseline").eval()
    convs = [module for module in printed.modules() if isinstance(module, ParallelConv2d)]
    assert len(convs) == 12
    x = torch.randn(1, convs[0].k3.in_channels, 5, 4)
    merged = nn.functional.conv2d(
        x, convs[0].k3.weight + nn.functional.pad(convs[0].k1.weight, (1, 1, 1, 1)), padding=1
    )
    torch.testing.assert_close(convs[0](x), merged)
    plain = lc.create_model("vgg16")
    extra = sum(conv.k1.weight.numel() - conv.k1.out_channels for conv in convs)  # less the biases it leaves out
    assert lc.count(printed).params - lc.count(plain).params == extra


@pytest.mark.parametrize("name", ["resnet50_backbone", "spconv_resnet50_backbone"])
@pytest.mark.parametrize(("height", "width", "last"), [(65, 97, (3, 4)), (33, 224, (2, 7)), (31, 1, (1, 1))])
def test_the_backbone_takes_odd_images(name, height, width, last):
    model = empty(name, in_chans=1)
    assert model(torch.empty(2, 1, height, width, device="meta")).shape == (2, 2048, *last)


def test_a_backbone_computes_on_an_odd_image_what_the_network_does():
    torch.manual_seed(0)
    backbone = build("spconv_resnet50_backbone").eval()
    network = build("spconv_resnet50", num_classes=3).eval()
    missing = backbone.load_state_dict(network.state_dict(), strict=False)
    assert not missing.missing_keys and {*missing.unexpected_keys} == {"fc.weight", "fc.bias"}
    x = torch.randn(1, 3, 65, 43)
    with torch.no_grad():
        torch.testing.assert_close(network.fc(backbone(x).mean((2, 3))), network(x))


def test_a_backbone_is_asked_for_classes():
    model = empty("spconv_resnet50_backbone", num_classes=5)
    assert model(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 5)
    with pytest.raises(SettingError, match="num_classes=-1"):
        empty("resnet50_backbone", num_classes=-1)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_what_timm_asks_of_a_network(entry):
    model = empty(entry.name)
    assert model.default_input_size == entry.input_size
    for info in model.feature_info:
        assert isinstance(model.get_submodule(info["module"]), nn.Module)
    model.reset_classifier(11)
    assert model.num_classes == 11 == model.get_classifier().out_features


def test_timm_cuts_the_features_of_a_backbone():
    from timm.models import FeatureListNet

    model = empty("spconv_resnet50_backbone")
    assert sum(isinstance(module, SplitConv2d) for module in model.modules()) == 16
    cut = FeatureListNet(model, out_indices=(1, 2, 3, 4), flatten_sequential=False)
    maps = cut(torch.empty(1, 3, 65, 97, device="meta"))
    assert [tuple(y.shape) for y in maps] == [(1, 256, 17, 25), (1, 512, 9, 13), (1, 1024, 5, 7), (1, 2048, 3, 4)]
