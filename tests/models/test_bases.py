"""The networks of the filter-basis paper: counts of its release, what is shared, and the penalties."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.core.notes import get_base
from leanconv.core.penalty import penalty
from leanconv.core.sharing import borrowed
from leanconv.models.bases import ENTRIES, transitions
from leanconv.ops.depth_shared import ConvBank, DepthSharedConv2d
from leanconv.ops.shared_basis import FilterBasis, SharedBasisConv2d

COUNTS = [
    ("basis_resnet34", {}, 7_726_676, 772_524_032),
    ("basis_resnet34", {"shared": 16}, 6_485_844, None),
    ("basis_resnet34", {"shared": 8}, 5_865_428, None),
    ("basis_resnet32", {"shared": 8}, 150_666, None),
    ("basis_resnet32", {}, 197_258, None),
    ("basis_resnet32", {"bases": 2}, 245_642, None),
    ("basis_resnet56", {"shared": 8}, 201_850, None),
    ("basis_resnet56", {}, 270_842, 145_932_928),
    ("basis_resnet56", {"bases": 2}, 319_226, 145_932_928),
    ("basis_resnet34_imagenet", {}, 11_786_968, 3_249_508_352),
    ("basis_resnet34_imagenet", {"bases": 1}, 9_436_888, 3_249_508_352),
    ("basis_resnet34_imagenet", {"shared": 32, "bases": 1}, 8_196_056, None),
    ("basis_resnet34_imagenet", {"shared": 32}, 9_762_776, None),
    ("basis_resnet50_shared", {}, 18_262_056, 4_089_184_256),
    ("basis_resnet50_shared", {"places": "text"}, 18_262_056, 4_089_184_256),
    ("basis_resnet50_shared", {"places": "spatial"}, 20_506_664, 4_089_184_256),
    ("basis_resnet101_shared", {}, 29_471_784, None),
    ("basis_resnext50", {}, 19_333_380, 1_179_000_832),
    ("basis_densenet121", {}, 5_084_504, 704_212_992),
    ("basis_mobilenetv2", {}, 1_899_620, 67_356_736),
    ("basis_mobilenetv2", {"places": "expand"}, 2_163_812, 67_356_736),
    ("basis_mobilenetv2", {"places": "expand_depthwise"}, 2_141_348, 67_356_736),
    ("basis_mobilenetv2_imagenet", {}, 2_978_888, 313_619_328),
    ("basis_mobilenetv2_imagenet_eca", {}, 2_978_905, None),  # 17 more, as in the release's code
    ("basis_mobilenetv2_imagenet", {"places": "expand"}, 3_243_080, None),
    ("basis_mobilenetv2_imagenet", {"places": "expand_depthwise"}, 3_220_616, None),
    ("resnext50_cifar", {}, 23_177_124, 1_344_151_552),
    ("densenet121_cifar", {}, 7_048_548, 888_442_880),
    ("mobilenetv2_cifar", {}, 2_428_004, 67_356_736),
    ("mobilenetv2_imagenet", {}, 3_507_272, 313_619_328),
]
SMALL = [entry.name for entry in ENTRIES if entry.input_size[1] == 32]
PLANNED = [entry.name for entry in ENTRIES if entry.name.startswith("basis_") and entry.name != "basis_resnext50"]


@cache
def meta(name, **settings):
    """For tests that only look at it."""
    with torch.device("meta"):
        return lc.create_model(name, **settings)


def users_of(model):
    """{id of a shared module: names of the layers that use it}."""
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        owned = [child for child in module.children() if isinstance(child, FilterBasis | ConvBank)]
        for bank in (*owned, *borrowed(module)):
            found.setdefault(id(bank), []).append(name)
    return found


@pytest.mark.parametrize(("name", "settings", "params", "macs"), COUNTS)
def test_counts_are_the_releases(name, settings, params, macs):
    model = meta(name, **settings)
    if macs is None:
        assert sum(p.numel() for p in model.parameters()) == params
    else:
        counted = lc.count(model)
        assert (counted.params, counted.macs) == (params, macs)


@pytest.mark.parametrize("name", PLANNED)
def test_the_plan_knows_what_the_network_holds(name):
    model = meta(name)
    plan = lc.plan_of(model)
    others = sum(p.numel() for key, p in model.named_parameters() if not _of_a_planned_conv(key, plan))
    assert plan.params() + others == lc.count(model, (3, 32, 32)).params
    lc.check(model)
    assert sorted(map(len, users_of(model).values())) == sorted(len(group.sites) for group in plan.groups)


def _of_a_planned_conv(parameter, plan):
    return any(parameter.startswith(f"{site.name}.") for site in plan.sites())


def test_the_first_block_of_every_stage_stays_dense():
    model = meta("basis_resnet56", bases=2)
    dense = [name for name, module in model.named_modules() if type(module) is nn.Conv2d]
    assert dense == ["conv1", *(f"layer{stage}.0.conv{conv}" for stage in (1, 2, 3) for conv in (1, 2))]
    lean = {name: module for name, module in model.named_modules() if isinstance(module, SharedBasisConv2d)}
    assert len(lean) == 3 * 8 * 2
    assert {module.index for name, module in lean.items() if name.endswith("conv1")} == {0}
    assert {module.index for name, module in lean.items() if name.endswith("conv2")} == {1}
    ranks = [lean[f"layer{stage}.1.conv1"].coefficients.shape[1] for stage in (1, 2, 3)]
    assert ranks == [17, 34, 68]
    assert sum(isinstance(module, FilterBasis) for module in model.modules()) == 3
    for name in ("basis_resnet34_imagenet", "basis_resnet50_shared", "basis_mobilenetv2_imagenet"):
        shared = [user for users in users_of(meta(name)).values() for user in users]
        assert shared and not any(".0." in user for user in shared)


def test_the_old_name_of_a_setting_still_builds_the_network():
    old, new = (lc.create_model("basis_mobilenetv2", **{name: "expand"}) for name in ("form", "places"))
    assert [*old.state_dict()] == [*new.state_dict()] and get_base(old) == get_base(new)
    assert get_base(old)["kwargs"] == {"places": "expand"}
    with pytest.raises(SettingError, match="form is not a setting of resnet8"):
        lc.create_model("resnet8", form="expand")


@pytest.mark.parametrize(
    ("places", "names"), [("code", {"conv2", "conv3"}), ("text", {"conv1", "conv2"}), ("spatial", {"conv2"})]
)
def test_which_convolutions_of_a_bottleneck_are_one(places, names):
    shared = [*users_of(meta("basis_resnet50_shared", places=places)).values()]
    assert {name.rpartition(".")[2] for users in shared for name in users} == names
    assert sorted(map(len, shared)) == sorted(len(names) * [2, 3, 5, 2])
    for users in shared:  # one stage and one place each
        assert len({(name.split(".")[0], name.rpartition(".")[2]) for name in users}) == 1


@pytest.mark.parametrize(
    ("places", "names"),
    [
        ("expand", {"conv1"}),
        ("expand_project", {"conv1", "conv3"}),
        ("expand_depthwise", {"conv1", "conv2"}),
    ],
)
def test_which_convolutions_of_mobilenet_are_one(places, names):
    for name in ("basis_mobilenetv2", "basis_mobilenetv2_imagenet"):
        shared = [*users_of(meta(name, places=places)).values()]
        assert {user.rpartition(".")[2] for users in shared for user in users} == names
        assert {user.split(".")[0] for users in shared for user in users} == {f"layer{stage}" for stage in (3, 4, 5, 6)}
        assert sorted(map(len, shared)) == sorted(len(names) * [2, 3, 2, 2])


def test_resnext_and_densenet_share_within_their_blocks():
    resnext = meta("basis_resnext50")
    banks = [module for module in resnext.modules() if isinstance(module, ConvBank)]
    assert [tuple(bank.weight.shape) for bank in banks] == [(64 * 2**g, 8 * 2**g, 3, 3) for g in range(4)]
    assert [*users_of(resnext).values()] == [
        [f"layer{stage}.{block}.conv2.shared" for block in range(1, depth)]
        for stage, depth in enumerate((3, 4, 6, 3), 1)
    ]
    assert resnext.layer3[1].conv2.unique.groups == 4
    assert resnext.layer3[0].conv2.groups == 32
    densenet = meta("basis_densenet121")
    bases = [module for module in densenet.modules() if isinstance(module, FilterBasis)]
    assert [tuple(basis.weight.shape[-4:]) for basis in bases] == [(16, 128, 3, 3)] * 4
    assert [*map(len, users_of(densenet).values())] == [6, 12, 24, 16]  # the release's last block borrows the third's


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    model = lc.create_model(name, num_classes=7, in_chans=1).train()
    y = model(torch.randn(2, 1, 32, 32))
    assert y.shape == (2, 7)
    y.square().sum().backward()
    still = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still
    # The bias of a convolution before a norm moves nothing; every weight does
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.dim() > 1)
    lc.check(model)


def test_resnext_computes_what_it_says():
    torch.manual_seed(0)
    block = lc.create_model("basis_resnext50").layer2[2].eval()
    x = torch.randn(2, 512, 5, 4)
    with torch.no_grad():
        y = block.conv2.unique.weight, block.conv2.shared.bank.weight
        hidden = torch.relu(block.bn1(block.conv1(x)))
        maps = [nn.functional.conv2d(hidden, w, padding=1, groups=g) for w, g in zip(y, (2, 16), strict=True)]
        out = block.bn3(block.conv3(torch.relu(block.bn2(torch.cat(maps, 1)))))
        torch.testing.assert_close(block(x), torch.relu(out + x))


def test_a_change_of_the_basis_reaches_every_user():
    torch.manual_seed(0)
    model = lc.create_model("basis_resnet32", bases=2)
    banks = [module for module in model.modules() if isinstance(module, FilterBasis)]
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SharedBasisConv2d)}
    before = {name: layer.components().detach().clone() for name, layer in layers.items()}
    with torch.no_grad():
        banks[1].weight[:32] += 1  # the first of the second stage's two bases
    changed = {name for name, layer in layers.items() if not torch.equal(layer.components(), before[name])}
    assert changed == {f"layer2.{block}.conv1" for block in range(1, 5)}
    resnext = lc.create_model("basis_resnext50")
    with torch.no_grad():
        resnext.layer1[1].conv2.shared.bank.weight.zero_()
    assert not resnext.layer1[2].conv2.shared.weight.any() and resnext.layer2[1].conv2.shared.weight.all()


def test_penalties_are_means_and_can_be_left_off():
    torch.manual_seed(0)
    model = lc.create_model("basis_resnet32")
    assert lc.penalty(model).item() < 1e-9  # bases start orthonormal
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, FilterBasis):
                module.weight.mul_(2**0.5)  # each Gram matrix becomes 2 I: an error of R over R^2 entries
    wanted = 10 * (16 + 32 + 64) / (16**2 + 32**2 + 64**2)
    assert lc.penalty(model).item() == pytest.approx(wanted, rel=1e-4)
    for name in ("basis_resnet32", "basis_resnext50", "basis_mobilenetv2"):
        assert lc.penalty(lc.create_model(name, penalty_weight=0.0)).item() == 0


def test_convolutions_shared_whole_have_a_mean_for_each_kind():
    """With zero weights the Gram error of R rows is R, over R^2 entries."""
    model = lc.create_model("basis_mobilenetv2", places="expand_project")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ConvBank):
                module.weight.zero_()
    means = [sum(rows) / sum(r**2 for r in rows) for rows in ((192, 384, 576, 960), (32, 64, 96, 160))]
    assert lc.penalty(model).item() == pytest.approx(10 * sum(means), rel=1e-5)
    banks = [m for m in lc.create_model("basis_resnext50").modules() if isinstance(m, ConvBank)]
    assert len({bank.penalty_terms()[0].kind for bank in banks}) == 1  # one mean over the four stages


@pytest.mark.parametrize(
    ("name", "bank"), [("basis_resnext50", "conv2.shared.bank"), ("basis_resnet32", "conv1.basis")]
)
def test_save_and_load_keep_the_basis(name, bank, tmp_path):
    torch.manual_seed(0)
    model = lc.create_model(name, num_classes=3).eval()
    lc.save(model, tmp_path)
    again = lc.load(tmp_path)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = again(x)
        torch.testing.assert_close(before, model(x))
        again.layer1[1].get_submodule(bank).weight.zero_()
        assert not torch.allclose(again(x), before)
    assert users_of(again).keys() and [*users_of(again).values()] == [*users_of(model).values()]
    assert lc.count(again).params == lc.count(model).params


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("basis_resnext50", [(256, 32), (512, 16), (1024, 8), (2048, 4)]),
        ("basis_mobilenetv2", [(16, 34), (24, 17), (32, 9), (64, 5), (96, 5), (160, 5), (320, 5)]),
        ("basis_densenet121", [(256, 32), (512, 16), (1024, 8), (1024, 4)]),
    ],
)
def test_timm_cuts_the_stages(name, shapes):
    from timm.models import FeatureHookNet, FeatureListNet

    entry = next(entry for entry in ENTRIES if entry.name == name)
    cut = {"list": FeatureListNet, "hook": FeatureHookNet}[entry.feature_cls]
    model = lc.create_model(name).eval() if entry.feature_cls == "hook" else _fresh(name)
    x = torch.empty(1, 3, 32, 32) if entry.feature_cls == "hook" else torch.empty(1, 3, 32, 32, device="meta")
    with torch.no_grad():
        maps = cut(model, out_indices=range(len(shapes)))(x)
    assert [(y.shape[1], y.shape[2]) for y in maps] == shapes


def _fresh(name):
    with torch.device("meta"):
        return lc.create_model(name).eval()


def test_mobilenet_is_the_releases():
    small, large = meta("mobilenetv2_cifar"), meta("mobilenetv2_imagenet")
    assert small.conv1.kernel_size == (1, 1) and small.conv1.padding == (1, 1) and large.conv1.stride == (2, 2)
    joined = [f"layer{stage}.0" for stage in (1, 5, 6, 7)]  # stride 1, another width
    assert [
        name for name, module in small.named_modules() if isinstance(getattr(module, "shortcut", None), nn.Sequential)
    ] == joined
    assert all(large.get_submodule(name).shortcut is None for name in joined)
    assert (small.dropout.p, large.dropout.p, meta("mobilenetv2_cifar", dropout=0.1).dropout.p) == (0.0, 0.2, 0.1)
    names = {name for name, module in large.named_modules() if getattr(module, "bias", None) is not None}
    assert {name for name in names if isinstance(large.get_submodule(name), nn.Conv2d)} == {"conv1", "head_conv"}


def test_the_attention_weights_the_channels_behind_each_stage_of_several_blocks():
    """ECA: x * sigmoid(conv over the channels of the mean of x), with 17 weights in all."""
    from timm.layers import EcaModule

    model = lc.create_model("basis_mobilenetv2", attention=True).eval()
    found = {name: module for name, module in model.named_modules() if isinstance(module, EcaModule)}
    assert list(found) == ["layer2.2", "layer3.3", "layer4.4", "layer5.3", "layer6.3"]
    assert sum(p.numel() for module in found.values() for p in module.parameters()) == 17
    x, eca = torch.randn(2, 24, 8, 8), found["layer2.2"]
    mean = torch.nn.functional.pad(x.mean((2, 3)), (1, 1)).unfold(1, 3, 1)  # (2, 24, 3)
    gate = (mean @ eca.conv.weight[0, 0]).sigmoid()
    assert torch.allclose(eca(x), x * gate[:, :, None, None], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mobilenetv2_cifar", {"attention": 1}, "attention=1 must be true or false"),
        ("basis_resnext50", {"unique": 1}, "unique=1 must be a multiple of 4; 4 is"),
        ("basis_resnext50", {"shared": 40}, "shared=40 must be a multiple of 16; 48 is"),
        ("basis_resnet50_shared", {"places": "all"}, "places='all' must be 'code', 'text' or 'spatial'"),
        (
            "basis_mobilenetv2",
            {"places": "text"},
            "places='text' must be 'expand', 'expand_project' or 'expand_depthwise'",
        ),
        ("basis_resnet34", {"shared": 0, "unique": 0}, "shared=0 and unique=0 leave no filter"),
        ("basis_resnet34", {"penalty_weight": -1}, "penalty_weight=-1 must be a number of at least 0"),
        ("mobilenetv2_cifar", {"images": "large"}, "images='large' must be 'small' or 'imagenet'"),
        ("mobilenetv2_cifar", {"dropout": 1}, "dropout=1 must be a number of at least 0 and below 1"),
    ],
)
def test_settings_that_cannot_be(name, settings, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        meta(name, **settings)


def test_depth_shared_layers_of_resnext_are_refused_by_data_parallel():
    layers = [m for m in meta("basis_resnext50").modules() if isinstance(m, DepthSharedConv2d)]
    with pytest.raises(lc.LeanconvError, match="DistributedDataParallel"):
        layers[1]._replicate_for_data_parallel()


def release_penalty(model, stages, include_unique):
    """The mean that train_cifar10.py of the release computes: shared with all components, unique within one layer."""
    total, entries = torch.zeros(()), 0
    for stage in stages:
        layers = [m for m in model.get_submodule(stage).modules() if isinstance(m, SharedBasisConv2d)]
        shared = layers[0].basis.weight.flatten(1)
        rows = torch.cat([shared, *(m.unique.flatten(1) for m in layers)])
        gram = (rows @ rows.T - torch.eye(len(rows))) ** 2
        if not include_unique:
            total, entries = total + gram[: len(shared), : len(shared)].sum(), entries + len(shared) ** 2
            continue
        total, entries = total + gram[: len(shared)].sum(), entries + len(shared) * len(rows)
        place, own = len(shared), len(layers[0].unique)
        for _ in layers:
            total, entries = total + gram[place : place + own, place : place + own].sum(), entries + own**2
            place += own
    return 10 * total / entries


@pytest.mark.parametrize("include_unique", [False, True])
@pytest.mark.parametrize("bases", [1, 2])
def test_the_penalty_of_the_release_on_cifar10(include_unique, bases):
    torch.manual_seed(0)
    model = lc.create_model("basis_resnet32", shared=3, unique=2, bases=bases, penalty_unique=include_unique)
    for module in model.modules():
        if isinstance(module, SharedBasisConv2d):
            torch.nn.init.normal_(module.unique)
    torch.nn.init.normal_(model.layer2[1].conv1.basis.weight)
    wanted = release_penalty(model, ("layer1", "layer2", "layer3"), include_unique)
    torch.testing.assert_close(penalty(model), wanted)


def test_initial_weights_of_the_release():
    torch.manual_seed(0)
    model = lc.create_model("basis_resnet34", width=16, shared=8, init="release")
    conv = model.layer4[1].conv1  # 8 unique components of 3x3, 128 outputs: fan_out 72 and 128
    assert conv.unique.std().item() == pytest.approx((2 / (len(conv.unique) * 9)) ** 0.5, rel=0.05)
    assert conv.coefficients.std().item() == pytest.approx((2 / conv.out_channels) ** 0.5, rel=0.05)
    rows = conv.basis.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), atol=1e-5, rtol=0)
    for name in ("basis_mobilenetv2", "basis_densenet121"):
        drawn = lc.create_model(name, init="release")
        weights = [m.weight for m in drawn.modules() if isinstance(m, FilterBasis | ConvBank)]
        for weight in weights:  # uniform in +-1 / sqrt(fan_in), as nn.Conv2d
            bound = weight[0].numel() ** -0.5
            assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert weights
    with pytest.raises(SettingError, match="init='random' must be"):
        lc.create_model("basis_resnet32", init="random")


def test_the_switch_of_the_inner_norm():
    with torch.device("meta"):
        on, off, release = (
            lc.create_model("basis_resnet34", shared=2, inner_norm=norm) for norm in ("on", "off", "release")
        )
        named = lc.create_model("basis_resnet34_unnormed_release")
    assert on.layer1[1].conv1.norm is not None and off.layer1[1].conv1.norm is None
    assert isinstance(off.layer1[1].bn1, torch.nn.BatchNorm2d) and isinstance(release.layer1[1].bn1, torch.nn.Identity)
    assert isinstance(release.layer1[0].bn1, torch.nn.BatchNorm2d)  # the first block stays as it is
    assert isinstance(release.layer1[1].bn2, torch.nn.BatchNorm2d)
    assert isinstance(named.layer4[2].bn1, torch.nn.Identity) and named.layer1[1].conv1.shared == 16
    assert not any(isinstance(m.act, torch.nn.ReLU) for m in transitions(lc.create_model("basis_densenet121_release")))
