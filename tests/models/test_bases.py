"""The networks of the filter-basis paper: counts of its release, what is shared, and the penalties."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.ops.depth_shared import ConvBank, DepthSharedConv2d
from leanconv.ops.shared_basis import FilterBasis, SharedBasisConv2d

COUNTS = [
    ("basis_resnet34", {}, 7_726_676),
    ("basis_resnet34", {"shared": 16}, 6_485_844),
    ("basis_resnet34", {"shared": 8}, 5_865_428),
    ("basis_resnet32", {"shared": 8}, 150_666),
    ("basis_resnet32", {"bases": 2}, 245_642),
    ("basis_resnet56", {}, 270_842),
    ("basis_resnet56", {"bases": 2}, 319_226),
    ("basis_resnet34_imagenet", {}, 11_786_968),
    ("basis_resnet34_imagenet", {"shared": 32, "bases": 1}, 8_196_056),
    ("basis_resnet50_shared", {}, 18_262_056),
    ("basis_resnet50_shared", {"form": "text"}, 18_262_056),
    ("basis_resnet50_shared", {"form": "spatial"}, 20_506_664),
    ("basis_resnet101_shared", {}, 29_471_784),
    ("basis_resnext50", {}, 19_333_380),
    ("basis_densenet121", {}, 5_084_504),
    ("basis_mobilenetv2", {}, 1_899_620),
    ("basis_mobilenetv2", {"form": "expand"}, 2_163_812),
    ("basis_mobilenetv2_imagenet", {}, 2_978_888),
    ("basis_mobilenetv2_imagenet", {"form": "expand"}, 3_243_080),
    ("mobilenetv2_cifar", {}, 2_428_004),
    ("mobilenetv2_imagenet", {}, 3_507_272),
]


@pytest.mark.parametrize(("name", "settings", "count"), COUNTS)
def test_parameters_are_the_releases(name, settings, count):
    with torch.device("meta"):
        assert lc.count(lc.create_model(name, **settings)).params == count


def meta(name, **settings):
    with torch.device("meta"):
        return lc.create_model(name, **settings)


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


@pytest.mark.parametrize(
    ("form", "places"), [("code", {"conv2", "conv3"}), ("text", {"conv1", "conv2"}), ("spatial", {"conv2"})]
)
def test_which_convolutions_of_a_bottleneck_are_one(form, places):
    model = meta("basis_resnet50_shared", form=form)
    shared = [name for name, module in model.named_modules() if isinstance(module, DepthSharedConv2d)]
    assert {name.rpartition(".")[2] for name in shared} == places
    assert len(shared) == len(places) * (2 + 3 + 5 + 2)
    assert sum(isinstance(module, ConvBank) for module in model.modules()) == 4 * len(places)
    assert not any(".0." in name for name in shared)


def test_resnext_and_densenet_share_within_their_blocks():
    resnext = meta("basis_resnext50")
    banks = [module for module in resnext.modules() if isinstance(module, ConvBank)]
    assert [tuple(bank.weight.shape) for bank in banks] == [(64 * 2**g, 8 * 2**g, 3, 3) for g in range(4)]
    assert resnext.layer3[1].conv2.unique.groups == 4
    densenet = meta("basis_densenet121")
    bases = [module for module in densenet.modules() if isinstance(module, FilterBasis)]
    assert [tuple(basis.weight.shape[-4:]) for basis in bases] == [(16, 128, 3, 3)] * 4
    with pytest.raises(SettingError, match="unique=1 must be a multiple of 4; 4 is"):
        meta("basis_resnext50", unique=1)


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
    assert lc.penalty(lc.create_model("basis_resnet32", penalty_weight=0.0)).item() == 0
    shared = lc.create_model("basis_mobilenetv2", form="expand_depthwise")
    assert torch.isfinite(lc.penalty(shared))


def test_save_and_load_keep_the_basis(tmp_path):
    torch.manual_seed(0)
    model = lc.create_model("basis_resnext50").eval()
    lc.save(model, tmp_path)
    again = lc.load(tmp_path)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again(x), model(x))
    with torch.no_grad():
        again.layer1[1].conv2.shared.bank.weight.zero_()
    assert (again.layer1[2].conv2.shared.weight == 0).all()
