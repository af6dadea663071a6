"""TBC's networks: their counts, what their bottleneck computes, and what of them is tied."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.models.tied import ENTRIES
from leanconv.models.tied_resnet import Mixer, TiedBottleneck, TiedResNet, default_blocks
from leanconv.ops import TiedBlockConv2d, TiedGlobalContext
from leanconv.papers import tbc
from leanconv.papers.conventions import Counted
from leanconv.papers.tally import Tally

BY_NAME = {entry.name: entry for entry in ENTRIES}
VARIANTS = [
    {},
    {"mixer": "concatenate"},
    {"mixer_output": "add"},
    {"mixer": "concatenate", "mixer_output": "add"},
    {"mixer": None},
    {"splits": 2, "base_width": 12, "blocks": (1, 3), "groups": 2},
    {"attention": "se", "attention_blocks": 2},
]


def build(name: str, **settings: object) -> nn.Module:
    return BY_NAME[name].builder(**(BY_NAME[name].settings | settings))


def meta(name: str, **settings: object) -> nn.Module:
    with torch.device("meta"):
        return build(name, **settings)


def settle_(model: nn.Module) -> nn.Module:
    """Norms as after some training: an eval pass that shows each of them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "settings", "params", "macs"),
    [
        ("tied_resnet50", {}, 21_952_280, 4_262_592_512),
        ("tied_resnet50_s", {}, 13_921_358, 2_549_784_576),
        ("tied_resnet50_s", {"base_width": 16}, 12_611_812, None),
        ("tied_resnet101", {}, 39_286_296, None),
        ("tied_resnet101_s", {}, 24_000_318, None),
        ("tied_resnet50_2s48w", {}, 23_640_392, None),
        ("tied_resnet50_6s24w", {}, 23_090_216, None),
        ("tied_resnet50_8s18w", {}, 23_848_412, None),
        ("tied_resnet50_concat", {}, 27_622_232, None),
        ("tied_resnet50_concat_added", {}, 26_690_456, None),
        ("tied_resnet50_unmixed", {}, 18_801_048, None),
        ("tied_resnext50", {}, 31_055_768, None),
        ("tied_resnext50_s", {}, 19_061_908, None),
        ("tied_resnext101", {}, 124_893_928, None),
        ("tied_resnext101_s", {}, 64_922_240, None),
        ("tied_senet101", {}, 41_691_408, None),
        ("tied_senet101_s", {}, 26_405_430, None),
        ("resnest50_fast", {}, 27_483_240, 4_330_711_040),
        ("tied_resnest50_s", {}, 15_748_200, 3_457_247_232),
        ("tied_resnest50_s", {"tied": "fitted"}, 16_446_136, None),
        ("tied_resnest50_s", {"avd_first": True}, 15_748_200, 2_937_022_464),
        ("tied_se_resnet50", {}, 25_598_334, None),
        ("tied_se_efficientnet_b0", {}, 4_813_478, None),
        ("gc_resnet50", {}, 35_557_941, 4_105_367_552),
        ("tied_gc_resnet50", {}, 28_077_877, None),
        ("tied_gc_resnet50", {"groups": 2}, 26_832_693, None),
    ],
)
def test_counts(name, settings, params, macs):
    model = meta(name, **settings)
    assert sum(p.numel() for p in model.parameters()) == params
    if macs is not None:
        assert lc.count(model).macs == macs


def test_a_bottleneck_by_its_equations():
    """TiedResNet-50's first block of layer2, by hand: 256 channels, p = 128, w = 64, D = 256."""
    with torch.device("meta"):
        block = TiedBottleneck(256, 128, 2)
    norms = 2 * (256 + 4 * 64 + 64 + 64 + 512 + 512)
    thin = 256 * 256 // 4 + 256 * 512 // 4 + 9 * 64 * 64 * 85 // 64  # 1 + 1/4 + 1/16 + 1/64 = 85/64
    assert sum(p.numel() for p in block.parameters()) == norms + thin + 2 * 64 * 64 + (256 + 64) * 512


def relu_norm(unit: nn.Sequential, y: Tensor, relu: bool = True) -> Tensor:
    norm = unit[1]
    y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return F.relu(y) if relu else y


def dense(conv: nn.Module) -> Tensor:
    return conv.weight_dense() if isinstance(conv, TiedBlockConv2d) else conv.weight


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_a_bottleneck_computes_what_it_says(settings):
    """Against plain convolutions with the weights that the tied ones equal."""
    block = settle_(TiedBottleneck(32, 64, 2, **({"base_width": 8} | settings))).double()
    x = torch.randn(2, 32, 7, 7, dtype=torch.double)
    with torch.no_grad():
        split = relu_norm(block.entry, F.conv2d(x, dense(block.entry[0]))).split(block.width, 1)
        groups = settings.get("groups", 1)
        parts = []
        for part, unit in zip(split, block.parts, strict=True):
            parts.append(relu_norm(unit, F.conv2d(part, dense(unit[0]), None, 2, 1, 1, groups)))
        joined = mixed = torch.cat(parts, 1)
        if block.mixer is not None:
            fused = joined if block.mixer.fusion == "concatenate" else torch.stack(parts).sum(0)
            first, second = block.mixer.convs
            fused = relu_norm(first, F.conv2d(fused, dense(first[0])))
            fused = relu_norm(second, F.conv2d(fused, dense(second[0]), None, 1, second[0].padding))
            if block.mixer.output == "append":
                mixed = torch.cat([joined, fused], 1)
            else:
                mixed = joined + fused.repeat(1, joined.shape[1] // fused.shape[1], 1, 1)
        y = relu_norm(block.exit, F.conv2d(mixed, block.exit[0].weight), relu=False)
        if block.attention is not None:
            squeeze, expand = block.attention.squeeze, block.attention.expand
            hidden = F.relu(F.linear(y.mean((2, 3)), squeeze.weight_dense(), squeeze.bias_dense()))
            y = y * F.linear(hidden, expand.weight_dense(), expand.bias_dense()).sigmoid()[:, :, None, None]
        shortcut = relu_norm(block.shortcut, F.conv2d(x, dense(block.shortcut[0]), None, 2), relu=False)
        assert y.shape == (2, 256, 4, 4)
        torch.testing.assert_close(block(x), F.relu(y + shortcut))


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_every_parameter_learns(settings):
    model = build("tied_resnet50_s", depths=(1, 1, 1, 1), num_classes=5, in_chans=1, **({"base_width": 8} | settings))
    y = model(torch.randn(2, 1, 64, 64))
    assert y.shape == (2, 5)
    y.square().sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


def test_the_splits_are_tied_as_the_paper_says():
    model = meta("tied_resnet50")
    for name, block in model.named_modules():
        if isinstance(block, TiedBottleneck):
            assert [unit[0].blocks for unit in block.parts] == [1, 2, 4, 8], name
            assert block.entry[0].blocks == 2
            assert isinstance(block.exit[0], nn.Conv2d)
            assert isinstance(block.shortcut, nn.Identity) or block.shortcut[0].blocks == 2
    strides = [unit[0].stride for unit in model.layer3[0].parts]
    assert strides == [(2, 2)] * 4 and model.layer3[0].entry[0].stride == (1, 1)
    assert all(unit[0].stride == (1, 1) for block in (*model.layer1, model.layer3[1]) for unit in block.parts)
    assert [len(layer) for layer in (model.layer1, model.layer2, model.layer3, model.layer4)] == [3, 4, 6, 3]


def test_a_split_treats_its_blocks_alike():
    """The other order of blocks in gives the other order out, for the tied splits and not for the first one."""
    block = TiedBottleneck(32, 64, base_width=16).eval()
    x = torch.randn(1, 16, 5, 5)
    for unit in block.parts:
        blocks = unit[0].blocks
        turned = x.unflatten(1, (blocks, -1)).flip(1).flatten(1, 2)
        expected = unit(x).unflatten(1, (blocks, -1)).flip(1).flatten(1, 2)
        torch.testing.assert_close(unit(turned), expected)
    assert not torch.allclose(block.parts[0](x.flip(1)), block.parts[0](x).flip(1), atol=1e-3)


def test_to_dense_is_the_same_network():
    model = settle_(build("tied_resnet50_s", depths=(1, 1), num_classes=5))
    x = torch.randn(2, 3, 40, 33)
    with torch.no_grad():
        plain = lc.to_dense(model)
        assert not any(isinstance(module, TiedBlockConv2d) for module in plain.modules())
        torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-4)


def test_trace_and_export():
    model = settle_(build("tied_resnet50_s", depths=(1, 1), num_classes=5))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected)
        exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
        torch.testing.assert_close(exported(x[:1].repeat(3, 1, 1, 1)), expected[:1].repeat(3, 1))


def test_the_default_blocks():
    assert default_blocks(4, 32) == default_blocks(4, 16) == default_blocks(4, 64, 4) == (1, 2, 4, 8)
    assert default_blocks(4, 18) == (1, 2, 2, 3)
    assert default_blocks(8, 18) == (1, 1, 1, 1, 2, 2, 2, 2)
    assert default_blocks(4, 72, 4) == (1, 2, 3, 6)
    assert [unit[0].blocks for unit in meta("tied_resnet50_s", base_width=16).layer1[0].parts] == [1, 2, 4, 8]
    with pytest.raises(SettingError, match=r"splits=3 of base_width=32 have no known blocks; pass blocks=\(1, 1, 1\)"):
        default_blocks(3, 32)
    with pytest.raises(SettingError, match="splits=4 of base_width=32 / groups=8 have no known blocks"):
        default_blocks(4, 32, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_width": 18, "blocks": (1, 2, 4, 8)}, "blocks=4 must divide in_channels=18; 1, 2, 3, 6, 9 or 18 would"),
        ({"blocks": (1, 2)}, "blocks=(1, 2) must hold one number for each of splits=4"),
        ({"groups": 3, "blocks": (1, 1, 1, 1)}, "groups=3 must divide in_channels=32"),
        ({"splits": 1, "base_width": 15, "blocks": (1,)}, "splits=1 times base_width=15 must be even"),
        ({"splits": 0}, "splits=0 must be a whole number of at least 1"),
        ({"base_width": 32.0}, "base_width=32.0 must be a whole number of at least 1"),
        ({"mixer": "max"}, "mixer='max' must be 'sum', 'concatenate' or None"),
        ({"mixer_output": "multiply"}, "mixer_output='multiply' must be 'append' or 'add'"),
        ({"attention": "gc"}, "attention='gc' must be 'se' or None"),
        ({"attention": "se", "reduction": 7}, "reduction=7 must divide channels=256"),
        ({"depths": (1, 0)}, "depths=(1, 0) must be blocks for each stage"),
        ({"num_classes": 0}, "num_classes=0 must be a whole number of at least 1"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(settings, message):
    with torch.device("meta"), pytest.raises(SettingError, match=re.escape(message)):
        TiedResNet(**({"depths": (1,)} | settings))


def tied_sites(model: nn.Module) -> dict[str, int]:
    plan = lc.plan_of(model)
    assert plan is not None
    return {group.sites[0].name: group.method.blocks for group in plan.groups}


def test_tied_se():
    model = meta("tied_se_resnet50", blocks=4)
    sites = tied_sites(model)
    assert len(sites) == 2 * 16 and set(sites.values()) == {4}
    assert all(name.endswith((".se.fc1", ".se.fc2")) for name in sites)
    assert lc.plan_of(meta("tied_se_resnet50", blocks=1)) is None
    weights = {b: tbc.SE_WEIGHTS(Counted(meta("tied_se_resnet50", blocks=b), Tally())) for b in (1, 8)}
    assert weights[1] == 64 * weights[8]
    with pytest.raises(SettingError, match="blocks=0 must be a whole number"):
        meta("tied_se_resnet50", blocks=0)


def test_tied_se_of_efficientnet_keeps_what_four_does_not_divide():
    model = meta("tied_se_efficientnet_b0", blocks=4)
    plan = lc.plan_of(model)
    assert len(tied_sites(model)) == 2 * 12
    kept = [kept.reason for kept in plan.kept if ".se." in kept.site.name]
    assert sum("blocks=4 must divide" in reason for reason in kept) == len(kept) == 2 * 4
    assert all(re.search(r"channels=(6|10);", reason) for reason in kept)
    plain, half = (Counted(meta("tied_se_efficientnet_b0", blocks=b), Tally()) for b in (1, 2))
    assert tbc.se_params_by_formula(2)(plain) == tbc.SE(half)  # where it divides, the formula is the count


def test_tied_resnest():
    text = tied_sites(meta("tied_resnest50_s"))
    fitted = tied_sites(meta("tied_resnest50_s", tied="fitted"))
    assert {re.sub(r"layer\d\.\d+", "*", name) for name in text} == {"*.conv1", "*.conv2.conv"}
    assert {re.sub(r"layer\d\.\d+", "*", name) for name in fitted} == {"*.conv2.conv", "*.downsample.1", "*.conv2.fc1"}
    assert (len(text), len(fitted)) == (2 * 16, 2 * 16 + 4)
    block = meta("resnest50_fast").layer2[0]
    assert lc.plan_of(meta("resnest50_fast")) is None
    assert block.avd_first is not None and block.avd_last is None
    with pytest.raises(SettingError, match="tied='all' must be 'text' or 'fitted'"):
        meta("tied_resnest50_s", tied="all")


def test_global_context():
    import timm

    model = build("tied_gc_resnet50", groups=2).eval()
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, TiedGlobalContext)}
    assert len(blocks) == 4 + 6 + 3 and not any(name.startswith("layer1") for name in blocks)
    assert {(b.squeeze.groups, b.squeeze.blocks, b.expand.groups, b.expand.blocks) for b in blocks.values()} == {
        (2, 2, 2, 2)
    }
    plain = timm.create_model("resnet50").eval()
    assert set(plain.state_dict()) == {key for key in model.state_dict() if ".se." not in key}
    plain.load_state_dict(model.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():  # it starts as the network without it, and acts once its last layer does
        for norm in (m for net in (plain, model) for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.ones_(norm.weight)
        expected = plain(x)
        torch.testing.assert_close(model(x), expected)
        nn.init.normal_(model.layer4[2].se.expand.weight)
        assert not torch.allclose(model(x), expected, atol=1e-2)
    with pytest.raises(SettingError, match="groups=3 must divide"):
        meta("gc_resnet50", groups=3)


FAMILIES = ("tied_resnet50_s", "tied_resnest50_s", "tied_se_resnet50", "tied_se_efficientnet_b0", "tied_gc_resnet50")


@pytest.mark.parametrize("name", FAMILIES)
def test_what_timm_reads_off_a_network(name):
    model = meta(name, num_classes=7, in_chans=1).eval()
    assert model.default_input_size == (1, 224, 224) and BY_NAME[name].input_size == (3, 224, 224)
    assert model.num_classes == 7 == model.get_classifier().out_features
    channels = model.get_classifier().in_features
    model.reset_classifier(0)
    assert model(torch.empty(1, 1, 64, 64, device="meta")).shape == (1, channels)


@pytest.mark.parametrize("name", ["tied_resnet50", "tied_gc_resnet50", "tied_se_resnet50", "tied_resnest50_s"])
def test_timm_cuts_the_stages(name):
    from timm.models import FeatureListNet

    cut = FeatureListNet(meta(name)).eval()
    x = torch.empty(1, 3, 64, 64, device="meta")
    shapes = [tuple(y.shape) for y in cut(x)]
    assert shapes == [(1, 64, 32, 32), (1, 256, 16, 16), (1, 512, 8, 8), (1, 1024, 4, 4), (1, 2048, 2, 2)]
    assert cut.feature_info.channels() == [shape[1] for shape in shapes]
    assert cut.feature_info.reduction() == [64 // shape[2] for shape in shapes]


def test_a_mixer_says_what_it_is():
    assert "fusion='sum', output='add'" in repr(Mixer(2, 8, 16, "sum", "add"))
    assert all(entry.source.startswith(("Wang & Yu 2021", "Zhang et al.", "Cao et al.")) for entry in ENTRIES)


def test_tied_attention_is_a_plan_rule_on_any_backbone():
    """TiedSE: a rule for the two layers of SE gives the network of Table 3; TiedGCB: B^2 fewer weights in the two 1x1."""
    with torch.device("meta"):
        dense, named = lc.create_model("timm/seresnet50"), lc.create_model("tied_se_resnet50", blocks=2)
        tied = lc.convert(dense, lc.plan(dense, lc.TiedBlock(blocks=2), where="*.se.*"))
        context = lc.create_model("timm/resnet18", block_args={"attn_layer": "gca"})
        lean = lc.convert(context, lc.plan(context, lc.TiedBlock(blocks=2), where="*.se.mlp*"))
    assert sum(p.numel() for p in tied.parameters()) == sum(p.numel() for p in named.parameters())
    weights = [
        sum(
            p.numel()
            for n, p in model.named_parameters()
            if ".se.mlp" in n and n.endswith(("fc1.weight", "fc2.weight"))
        )
        for model in (context, lean)
    ]
    assert weights[0] == 4 * weights[1] > 0
    assert lean.layer1[0].se.conv_attn.weight.shape == (1, 64, 1, 1)  # the mask stays untied
