"""ShardNet's networks: their counts, their one filter set, and the padded image."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import leanconv as lc
from leanconv.analyse import blending_weights, prune_blending
from leanconv.core.errors import SettingError
from leanconv.core.sharing import borrowed
from leanconv.ops.depth_shared import ConvBank, DepthSharedConv2d
from leanconv.ops.padded_depth_shared import PaddedDepthSharedConv2d
from leanconv.papers.conventions import Counted, conv_params
from leanconv.papers.tally import Tally

COUNTS = [
    ("shard_vgg16_e", {"width": 64}, 444_928),
    ("shard_vgg16_s", {"width": 64}, 36_928),
    ("shard_vgg16", {"width": 64}, 53_312),
    ("shard_vgg16_sl2", {"width": 256}, 852_224),
    ("shard_vgg16_sl3", {"width": 256}, 852_224),
    ("shard_resnet_e", {}, 294_080),
    ("shard_resnet_e", {"blocks": 7}, 682_048),
    ("shard_resnet", {}, 180_608),
    ("shard_resnet", {"blocks": 7}, 180_608),
    ("shard_resnet34_e_tiny", {}, 25_249_024),
    ("shard_resnet50_e_tiny", {}, 26_468_608),
    ("shard_resnet34_tiny", {}, 3_160_576),
    ("shard_resnet34_tiny", {"width": 256}, 793_856),
    ("shard_resnet50_tiny", {}, 18_105_344),
    ("shard_resnet34", {}, 3_222_016),
    ("shard_resnet50", {}, 18_166_784),
]


@pytest.mark.parametrize(("name", "settings", "count"), COUNTS)
def test_parameters_of_convolutions(name, settings, count):
    with torch.device("meta"):
        model = lc.create_model(name, **settings)
    assert conv_params(Counted(model, Tally())) == count


def banks(model):
    """{id of a bank: how many layers use it}."""
    uses: dict[int, int] = {}
    for module in model.modules():
        bank = getattr(module, "bank", None)
        if bank is not None:
            uses[id(bank)] = uses.get(id(bank), 0) + 1
    return sorted(uses.values())


@pytest.mark.parametrize(
    ("name", "settings", "uses"),
    [
        ("shard_vgg16", {}, [13]),
        ("shard_vgg16_sl2", {}, [10]),
        ("shard_vgg16_e", {}, []),
        ("shard_resnet", {}, [1 + 2 * 9]),
        ("shard_resnet", {"blocks": 5}, [1 + 2 * 15]),
        ("shard_resnet34_tiny", {}, [2 * 16]),
        ("shard_resnet50_tiny", {}, [16, 16, 16]),
        ("shard_resnet50_e_tiny", {}, []),
    ],
)
def test_how_often_a_filter_set_is_used(name, settings, uses):
    with torch.device("meta"):
        model = lc.create_model(name, width=8, **settings)
    assert banks(model) == uses
    lc.check(model)
    assert lc.count(model).params == lc.count(model).stored


def test_changing_the_filter_set_changes_every_layer():
    model = lc.create_model("shard_vgg16", width=8)
    convs = [module for module in model.modules() if isinstance(module, DepthSharedConv2d | PaddedDepthSharedConv2d)]
    with torch.no_grad():
        model.block1.conv1.bank.weight.fill_(3.0)
    assert len(convs) == 13
    assert all((conv.weight_dense() == 3).all() for conv in convs)
    assert sum(any(True for _ in borrowed(conv)) for conv in convs) == 12  # the first owns it


@pytest.mark.parametrize("stride", [1, 2])
def test_the_first_use_equals_padding_the_image(stride):
    torch.manual_seed(0)
    bank = ConvBank((6, 5, 3, 3), bias=True).double()
    torch.nn.init.normal_(bank.bias)
    first = PaddedDepthSharedConv2d(3, bank, stride, 1)
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    wanted = F.conv2d(F.pad(x, (0, 0, 0, 0, 0, 2)), bank.weight, bank.bias, stride, 1)
    torch.testing.assert_close(first(x), wanted)
    torch.testing.assert_close(first.to_conv()(x), wanted)
    with pytest.raises(SettingError, match="in_channels=6 must not exceed the 5 channels"):
        PaddedDepthSharedConv2d(6, bank)


def test_blending_starts_as_nothing():
    torch.manual_seed(0)
    blended = lc.create_model("shard_vgg16", width=8).eval()
    plain = lc.create_model("shard_vgg16_s", width=8).eval()
    plain.load_state_dict({k: v for k, v in blended.state_dict().items() if ".blend." not in k})
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(blended(x), plain(x))


@pytest.mark.parametrize(
    ("name", "settings", "side", "maps"),
    [
        ("shard_vgg16", {"head": "2048", "num_classes": 200}, 56, 3),
        ("shard_vgg16", {}, 32, 1),
        ("shard_resnet34_tiny", {}, 56, 7),
        ("shard_resnet50", {}, 64, 2),
        ("shard_resnet", {}, 33, 8),
    ],
)
def test_sizes(name, settings, side, maps):
    torch.manual_seed(0)
    model = lc.create_model(name, width=8, **settings).eval()
    seen = []
    model.avgpool.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[-1]))
    y = model(torch.randn(2, 3, side, side))
    assert seen == [maps]
    assert y.shape == (2, model.num_classes)


def test_save_and_load_keep_the_one_filter_set(tmp_path):
    torch.manual_seed(0)
    model = lc.create_model("shard_resnet", width=8).eval()
    lc.save(model, tmp_path)
    again = lc.load(tmp_path)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again(x), model(x))
    assert banks(again) == [19]


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("shard_vgg16", {"head": "1000"}, "head='1000' must be '512-512', '1024-1024' or '2048'"),
        ("shard_vgg16", {"width": 0}, "width=0 must be a whole number of at least 1"),
        ("shard_vgg16", {"width": 2}, "in_channels=3 must not exceed the 2 channels"),
        ("shard_resnet", {"stem": "5x5"}, "stem='5x5' must be"),
        ("shard_resnet", {"shared": 1}, "shared=1 must be"),
    ],
)
def test_refusals(name, settings, said):
    with pytest.raises(SettingError, match=said.replace("(", r"\(")):
        lc.create_model(name, **settings)


def test_the_layer_behind_the_stem_blends_too():
    """Appendix A.3: the linear layers of SL-ResNet-50 are conv1-(4 n) behind the stem and three of 4 n to 4 n: 52 n^2 weights."""
    n = 8
    model = lc.create_model("shard_resnet50_tiny", width=n, num_classes=5)
    assert sum(weight.numel() for weight in model.blending_weights()) == 4 * n * n + 3 * (4 * n) ** 2 == 52 * n * n
    assert list(blending_weights(model)) == ["widen.weight", "blend1.weight", "blend2.weight", "blend3.weight"]
    pruned = prune_blending(model, 1.0)
    assert not pruned.widen.weight.any() and pruned.layer1[0].conv1.weight_dense().any()
    assert lc.create_model("shard_resnet50_e_tiny", width=n).blends == []


def test_a_map_of_7x7_leaves_2x2_patches_of_3x3():
    torch.manual_seed(0)
    model = lc.create_model("shard_resnet34_tiny", width=8, num_classes=5, pool="3").eval()
    assert model.fc.in_features == 8 * 2 * 2
    assert model(torch.randn(2, 3, 56, 56)).shape == (2, 5)
    with pytest.raises(SettingError, match="pool='3' is for the 7x7 maps"):
        lc.create_model("shard_resnet", pool="3")


def test_the_layers_are_called_by_name():
    torch.manual_seed(0)
    model = lc.create_model("shard_resnet50", width=4, blocks=1).eval()
    x = torch.randn(1, 3, 64, 64)
    wanted = model(x)
    model.add_module("auxiliary", torch.nn.Linear(3, 2))  # a head that nothing uses
    assert torch.equal(model(x), wanted)
