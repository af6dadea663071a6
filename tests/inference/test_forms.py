"""Which forms there are, and that they compute what their operators do where that is hard; on the awkward specs the contract
holds them to it (`leanconv.testing.computing.forms_are_equal`)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.budget.memory import inner_bytes
from leanconv.core.affine import Affine
from leanconv.core.errors import SettingError
from leanconv.inference.forms import forms_of
from leanconv.testing import unsettle_


def settled(module: nn.Module) -> nn.Module:
    module = module.double().eval()
    unsettle_(module)
    return module


def test_a_norm_that_switches_a_channel_off():
    """Scale 0 behind a gate: what the gate would have seen is lost, and does not matter."""
    op, norm = settled(lc.SplitConv2d(8, 8, 3, padding=1)), settled(nn.BatchNorm2d(8))
    x = torch.randn(2, 8, 5, 6).double()
    with torch.no_grad():
        norm.weight[3] = 0
        for build in forms_of(op, Affine.of(norm)).values():
            torch.testing.assert_close(build()(x), norm(op(x)))


def names(op: lc.ConvOp) -> list[str]:
    return list(forms_of(op.eval()))


def test_which_forms_there_are():
    assert names(lc.TiedBlockConv2d(8, 8, 3, blocks=4)) == [
        "grouped", "grouped(2)", "dense", "padded(16)", "batch", "module",
    ]  # fmt: skip
    assert names(lc.TiedBlockConv2d(32, 32, 3, blocks=2)) == ["grouped", "dense", "batch", "module"]
    assert names(lc.TiedBlockConv2d(8, 8, 1, blocks=2))[3:6] == ["batch", "rows", "product"]
    assert "batch" not in names(lc.TiedBlockConv2d(8, 8, 3, groups=2, blocks=2))
    assert names(lc.SharedBasisConv2d(8, 8, 3, shared=3)) == ["factors", "factors, padded", "dense", "module"]
    assert names(lc.SharedBasisConv2d(8, 8, 3, shared=15))[:2] == ["factors", "dense"]
    assert names(lc.LowRankConv2d(8, 8, 3, rank=3)) == ["factors", "factors, padded", "dense", "module"]
    assert names(lc.LowRankConv2d(32, 32, 3, rank=16, factors="spatial")) == ["factors", "dense", "module"]
    assert names(lc.DepthSharedConv2d(8, 8, 3, adapter_rank=1)) == ["dense", "shared and adapter", "module"]
    assert names(lc.PartialConv2d(8, 8, 3, padding=1)) == ["partial", "dense", "module"]
    assert names(lc.SplitConv2d(8, 8, 3, padding=1)) == ["branches", "merged", "module"]
    assert names(lc.SplitConv2d(8, 8, 3, 2, 1)) == ["branches", "module"]
    assert names(lc.LegoConv2d(8, 8, 3)) == ["dense", "module"]


def test_what_borrows_its_weight_has_no_form_that_moves_alone():
    owner, user = lc.DepthShared().build([lc.ConvSpec(8, 8, 3), lc.ConvSpec(8, 8, 3)])
    assert names(owner) == ["dense", "module"] and names(user) == ["dense"]


def test_a_form_does_not_touch_the_operator():
    op = lc.TiedBlockConv2d(8, 8, 1, blocks=2).eval()
    before = op.weight.detach().clone()
    for build in forms_of(op).values():
        for parameter in build().parameters():
            if parameter is not op.weight and parameter is not op.bias:
                parameter.data.fill_(7.0)
    assert torch.equal(op.weight, before)


def test_the_tied_fold_takes_any_batch():
    op = settled(lc.TiedBlockConv2d(8, 8, 1, stride=2, bias=True, blocks=2))
    for build in forms_of(op).values():
        module = build()
        for n, size in ((1, 6), (3, 5)):
            x = torch.randn(n, 8, size, size).double()
            torch.testing.assert_close(module(x), op(x))


def test_errors_of_the_host_stay():
    with pytest.raises(SettingError):
        lc.TiedBlockConv2d(9, 8, 3, blocks=2)


GAMMAS = (0.0, 1e-3, -1e-3, 1e-5, -1e-5, 1e-8, -1e-8, 1e-30, -1e-30, 1e-39, 1.0, -1.0)


@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_no_form_divides_by_a_scale_that_is_next_to_nothing(dtype, stride, fusion):
    """What a trained network's dead channels come to: a quotient by such a scale overflows, in float16 below 2e-5."""
    op = settled(lc.SplitConv2d(8, len(GAMMAS), 3, stride, 1, fusion=fusion))
    norm = settled(nn.BatchNorm2d(len(GAMMAS)))
    x = torch.randn(2, 8, 6, 5).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(GAMMAS))
        expected = norm(op(x))
        rounding = 8 * torch.finfo(dtype).eps * expected.abs().max()
        for build in forms_of(op, Affine.of(norm)).values():
            found = copy.deepcopy(build()).to(dtype)(x.to(dtype))
            torch.testing.assert_close(found.double(), expected, atol=float(rounding), rtol=0)


def test_layers_that_compute_the_same_have_one_signature_and_others_another():
    """Its own settings count, whoever owns what is shared and whatever the layer is called."""
    from leanconv.inference.autotune import signature

    shape = (8, 8, 3, 1, 1)
    variants = [
        lc.TiedBlockConv2d(*shape),
        lc.TiedBlockConv2d(*shape, blocks=4),
        lc.GroupedConv2d(*shape),
        lc.HetConv2d(*shape),
        lc.HetConv2d(*shape, part=2),
        lc.LegoConv2d(*shape),
        lc.LegoConv2d(*shape, ratio=0.25),
        lc.FilterSummaryConv2d(*shape),
        lc.FilterSummaryConv2d(*shape, ratio=0.5),
        lc.SoftSharedConv2d(*shape),
        lc.SoftSharedConv2d(*shape, templates=3),
        lc.SharedBasisConv2d(*shape),
        lc.SharedBasisConv2d(*shape, norm=False),
        lc.SharedBasisConv2d(*shape, unique=2),
        lc.DepthSharedConv2d(*shape),
        lc.DepthSharedConv2d(*shape, blend=True),
        lc.DepthSharedConv2d(*shape, adapter_rank=1),
        lc.DepthSharedConv2d(*shape, adapter_rank=2),
        *(lc.LowRankConv2d(*shape, rank=r, factors=f) for r in (2, 3) for f in ("pointwise", "spatial", "tucker")),
        lc.LowRankConv2d(*shape, rank=(3, 2), factors="tucker"),
        lc.PartialConv2d(*shape),
        lc.PartialConv2d(*shape, channels=2),
        *(lc.SplitConv2d(*shape, **s) for s in ({}, {"fusion": False}, {"own_groups": 1}, {"redundant": False})),
        *(lc.SplitConv2d(*shape, representative=r) for r in ("chain", "full")),
        *(lc.GhostConv2d(*shape, **s) for s in ({}, {"norm": False}, {"activation": False}, {"cheap_kernel_size": 5})),
        nn.Conv2d(*shape),
        nn.Conv2d(8, 8, 3, 1, 1, bias=False),
        nn.Conv2d(8, 8, 3, 1, 1, padding_mode="circular"),
        lc.TiedBlockConv2d(*shape, padding_mode="circular"),
        lc.TiedBlockConv2d(*shape, bias=False),
    ]
    found = [signature(layer) for layer in variants]
    assert len(set(found)) == len(found)
    spec = lc.ConvSpec(8, 8, (3, 3), padding=(1, 1))
    for method in (lc.SharedBasis(), lc.DepthShared(), lc.SoftShared()):
        owner, borrower = method.build([spec, spec])
        assert signature(owner) == signature(borrower)


@pytest.mark.parametrize("settings", [{}, {"fusion": "static"}, {"representative": "chain"}, {"stride": 2}], ids=str)
def test_split_makes_two_maps_and_its_module_three(settings: dict[str, object]):
    """Of the output's size; the sums are in place of a branch. A strided one has the small maps of its pool too."""
    op = lc.SplitConv2d(32, 32, 3, padding=1, **settings).eval()
    x = torch.randn(1, 32, 32, 32)
    with torch.no_grad():
        output = op(x)
        size = output.untyped_storage().nbytes()
        for name, build in forms_of(op, Affine.of(nn.BatchNorm2d(32).eval())).items():
            module = build()
            kept, found = x.clone(), module(x)
            assert torch.equal(x, kept) and found.shape == output.shape
            maps = 1 + inner_bytes(module, x) / size
            assert maps <= {"branches": 2.1, "merged": 2.1, "module": 3.1}[name] + (op.pool is not None)


def test_a_split_in_place_of_its_branches_still_has_gradients():
    """Someone may differentiate an optimised network by its input."""
    op = settled(lc.SplitConv2d(8, 8, 3, padding=1))
    x = torch.randn(2, 8, 5, 6).double().requires_grad_()
    expected = torch.autograd.grad(op(x).square().sum(), x)[0]
    for build in forms_of(op).values():
        torch.testing.assert_close(torch.autograd.grad(build()(x).square().sum(), x)[0], expected)
