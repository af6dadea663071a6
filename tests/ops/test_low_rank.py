"""Low-rank convolutions: their ranks, their factors, and their fits against other derivations."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from tests.ops.moments import images, moments_of, output_error

pytestmark = pytest.mark.usefixtures("almost_no_ridge")

FACTORS = ("pointwise", "spatial", "tucker")


def fitted(conv: nn.Conv2d, rank, factors="pointwise", moments=None) -> lc.LowRankConv2d:
    method = lc.LowRank(rank=rank, factors=factors)
    module = method.build([lc.ConvSpec.of(conv)])[0].double()
    with torch.no_grad():
        method.fit_([module], [conv], None if moments is None else [moments])
    return module


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", [(64, 64), (32, 128), (128, 48)])
def test_the_rank_of_a_ratio_is_the_highest_that_it_allows(factors, groups, shape):
    spec = lc.ConvSpec(*shape, 3, padding=1, groups=groups)
    for ratio in (0.1, 0.5, 0.9):
        method = lc.LowRank(ratio, factors=factors, align=1)
        inner, outer = method.ranks(spec)
        kept = method.macs([spec], 0, (8, 8)) / spec.macs((8, 8))
        more = lc.LowRank(rank=(inner + 1, outer + 1) if factors == "tucker" else outer + 1, factors=factors)
        assert kept <= ratio < more.macs([spec], 0, (8, 8)) / spec.macs((8, 8)), (ratio, kept)


def test_ranks_are_whole_vectors_and_written_out_in_the_plan():
    model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 6, 3), nn.Conv2d(6, 6, 3, groups=6))
    plan = lc.plan(model, lc.LowRank(0.5))
    assert [group.method.rank for group in plan.groups] == [24, 16, 2]  # 28.8, 16 and 2.97 without rounding
    assert "1.11 of the MACs" in plan.kept[0].reason
    assert plan.groups[0].method.label() == "low_rank(rank=24)"
    assert lc.LowRank() == lc.LowRank(0.5) and lc.LowRank().label() == "low_rank(ratio=0.5)"
    tucker = lc.plan(model, lc.LowRank(0.5, factors="tucker"), exclude=["2", "3"])
    assert [group.method.rank for group in tucker.groups] == [(32, 32)] and len(tucker.kept) == 3


def test_a_layer_that_a_rank_would_not_shrink_stays_dense():
    assert lc.LowRank(rank=14).reject(lc.ConvSpec(16, 16, 3)) is None
    assert "1.04 of the MACs" in lc.LowRank(rank=15).reject(lc.ConvSpec(16, 16, 3))
    assert "must not exceed the full rank 16" in lc.LowRank(rank=17).reject(lc.ConvSpec(16, 16, 3))
    assert "full rank (8, 4)" in lc.LowRank(rank=6, factors="tucker").reject(lc.ConvSpec(8, 4, 3))


def test_settings_that_contradict_are_refused():
    for settings, said in (
        (dict(ratio=0.5, rank=3), "both set the rank"),
        (dict(ratio=0.0), "above 0 and at most 1"),
        (dict(rank=0), "at least 1"),
        (dict(rank=(2, 3)), "only factors='tucker' has two ranks"),
        (dict(rank=(2, 0), factors="tucker"), "at least 1"),
        (dict(factors="cp"), "'pointwise', 'spatial' or 'tucker'"),
        (dict(align=0), "at least 1"),
    ):
        with pytest.raises(SettingError, match=said):
            lc.LowRank(**settings)
    with pytest.raises(SettingError, match="must not exceed the full rank 8"):
        lc.LowRankConv2d(8, 8, 3, rank=9)
    with pytest.raises(SettingError, match="larger map"):
        lc.LowRankConv2d(8, 8, 3, 2, factors="spatial")


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_full_rank_is_the_convolution_itself(factors, groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, 3, padding=1, groups=groups).double()
    most = {"pointwise": 12, "spatial": 24, "tucker": (8, 12)}[factors]
    most = tuple(r // groups for r in most) if factors == "tucker" else most // groups
    for moments in (None, moments_of(conv, images(8))):
        module = fitted(conv, most, factors, moments)
        torch.testing.assert_close(module.weight_dense(), conv.weight, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_the_fit_to_moments_is_the_best_of_its_rank(groups, bias):
    """Against the truncated SVD of W M^(1/2) (Eckart-Young), and against the error on the inputs themselves."""
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, 3, padding=1, groups=groups, bias=bias).double()
    x = images(8)
    moments = moments_of(conv, x)
    module = fitted(conv, 2, moments=moments)
    best = 0.0
    for weight, metric in zip(
        conv.weight.detach().flatten(1).unflatten(0, (groups, -1)), moments.metric(bias), strict=True
    ):
        values, vectors = torch.linalg.eigh(metric)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        best += float(torch.linalg.svdvals(weight @ root)[2:].square().sum())
    found = output_error(module, conv, x)
    assert found == pytest.approx(best, rel=1e-4)
    plain = output_error(fitted(conv, 2), conv, x)
    assert found < 0.8 * plain, (found, plain)
    if bias:  # the mean outputs are equal
        torch.testing.assert_close(module(x).mean((0, 2, 3)), conv(x).mean((0, 2, 3)))


@pytest.mark.parametrize("factors", ["spatial", "tucker"])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_later_factors_are_the_best_behind_the_first(factors, groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, 3, padding=1, groups=groups, bias=False).double().requires_grad_(False)
    x = images(8)
    module = fitted(conv, 3, factors, moments_of(conv, x))
    first = module.links[0]
    if factors == "tucker":  # its first factor is the one without moments
        torch.testing.assert_close(
            F.normalize(first.weight.flatten(1)), F.normalize(fitted(conv, 3, factors).links[0].weight.flatten(1))
        )
    found, plain = output_error(module, conv, x), output_error(fitted(conv, 3, factors), conv, x)
    assert found < plain
    # least squares on the maps that the first factor makes
    behind = first(x).detach()
    size, pads = ((1, 3), (0, 1)) if factors == "spatial" else ((3, 3), (1, 1))
    best = 0.0
    for maps, wanted in zip(behind.chunk(groups, 1), conv(x).chunk(groups, 1), strict=True):
        u = F.unfold(maps, size, padding=pads).transpose(1, 2).flatten(0, 1)
        y = wanted.flatten(2).transpose(1, 2).flatten(0, 1)
        predicted = u @ torch.linalg.lstsq(u, y).solution
        missed = float((y - predicted).square().sum()) / len(y)
        if factors == "tucker":  # and of rank 3 among these
            missed += float(torch.linalg.svdvals(predicted)[3:].square().sum()) / len(y)
        best += missed
    assert found == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [3, (3, 5)])
def test_spatial_factors_are_near_the_best_that_descent_finds(groups, kernel):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, kernel, groups=groups, bias=False).double().requires_grad_(False)
    x = images(8)
    module = fitted(conv, 3, "spatial", moments_of(conv, x))
    found = output_error(module, conv, x)
    best = copy.deepcopy(module).requires_grad_()
    descent = torch.optim.LBFGS(best.parameters(), max_iter=400, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        descent.zero_grad()
        missed = (best(x) - conv(x)).square().mean()
        missed.backward()
        return missed

    descent.step(loss)
    least = output_error(best, conv, x)
    assert least <= found < 1.1 * least, (least, found)


def test_the_grid_has_spatial_factors_where_a_kernel_can_be_taken_apart():
    for spec, kinds in (
        (lc.ConvSpec(128, 128, 3, padding=1), ["pointwise"] * 4 + ["spatial"] * 4),
        (lc.ConvSpec(128, 128, 3, 2), ["pointwise"] * 4),
        (lc.ConvSpec(128, 128, 1), ["pointwise"] * 4),
    ):
        grid = lc.LowRank.grid([spec], 8)
        assert [one.factors for one in grid] == kinds and all(one.rank % 8 == 0 for one in grid)
        for one, part in zip(grid, (0.25, 0.35, 0.5, 0.65) * 2, strict=False):
            assert one.macs([spec], 0, (8, 8)) / spec.macs((8, 8)) == pytest.approx(part, abs=0.08)


def test_alternating_is_better_than_the_svd_of_each_side():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, 3, bias=False).double()
    weight = conv.weight.detach()
    module = fitted(conv, (3, 4), "tucker")
    a = torch.linalg.svd(weight.transpose(0, 1).flatten(1)).U[:, :3]
    u = torch.linalg.svd(weight.flatten(1)).U[:, :4]
    plain = torch.einsum("or,pr,pjab,js,is->oiab", u, u, weight, a, a)
    found = (module.weight_dense() - weight).square().sum()
    assert found < 0.999 * (plain - weight).square().sum()


def test_factors_are_equally_large_and_a_dead_layer_can_train():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, 3, padding=1, bias=False).double()
    first, last = fitted(conv, 4).links
    torch.testing.assert_close(first.weight.flatten(1).norm(dim=1), last.weight.flatten(1).norm(dim=0))
    nn.init.zeros_(conv.weight)
    module = fitted(conv, 4)
    module(torch.randn(1, 8, 5, 5, dtype=torch.float64)).sum().backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


def test_fresh_weights_keep_the_variance():
    torch.manual_seed(0)
    x = torch.randn(8, 64, 16, 16)
    for factors in FACTORS:
        module = lc.LowRankConv2d(64, 64, 3, rank=32, factors=factors)
        assert 1 < float(module(x).detach()[:, :, 2:-2, 2:-2].var()) < 4, factors


@pytest.mark.parametrize("factors", FACTORS)
def test_padded_factors_are_whole_vectors(factors):
    op = lc.LowRankConv2d(8, 8, 3, padding=1, rank=3, factors=factors).eval()
    form = op.inference_forms(None)["factors, padded"]()
    assert all(conv.out_channels % 16 == 0 for conv in list(form)[:-1])
    x = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(form(x), op(x))
