"""One weight through the depth: its counts, its blends, its penalty, its fit."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import leanconv as lc
from tests.ops.moments import images, moments_of, output_error

pytestmark = pytest.mark.usefixtures("almost_no_ridge")


def test_resnet50_shared_has_the_papers_count():
    """Filter bases, section 4.2: from block 2 on, first 1x1 and 3x3 of the bottlenecks shared in each stage."""
    model = lc.create_model("torchvision/resnet50")
    method = lc.DepthShared(scope="stage", penalty_weight=10.0)
    blocks = {1: 3, 2: 4, 3: 6, 4: 3}  # of each stage
    later = [f"layer{stage}.{block}.conv" for stage, count in blocks.items() for block in range(1, count)]
    text_form = lc.convert(model, lc.plan(model, method, [name + "[12]" for name in later]))
    code_form = lc.convert(model, lc.plan(model, method, [name + "[23]" for name in later]))
    assert lc.count(text_form).params == lc.count(code_form).params == 18_262_056
    assert lc.count(text_form).macs == lc.count(model).macs
    assert lc.count(lc.convert(model, lc.plan(model, method, [name + "2" for name in later]))).params != 18_262_056


def test_every_use_keeps_its_own_stride_padding_and_dilation():
    specs = [
        lc.ConvSpec(4, 4, 3, padding=1),
        lc.ConvSpec(4, 4, 3, stride=2, padding=1),
        lc.ConvSpec(4, 4, 3, dilation=2, padding=2, padding_mode="reflect"),
    ]
    x = torch.randn(2, 4, 9, 7)
    for method in (lc.DepthShared(), lc.SharedBasis(shared=2, norm=False)):
        for module, spec in zip(method.build(specs), specs, strict=True):
            assert module.spec == spec
            conv = nn.Conv2d(**spec.kwargs())
            conv.weight.data, conv.bias.data = module.weight_dense(), module.bias_dense()
            torch.testing.assert_close(module(x), conv(x))


def test_groups_are_of_one_shape_and_one_group_count():
    model = nn.ModuleList(
        [nn.Conv2d(8, 8, 3, groups=g, bias=b) for g, b in ((1, True), (1, True), (1, False), (2, True))]
    )
    model.extend([nn.Conv2d(4, 8, 3), nn.Conv2d(4, 8, 3)])  # the weight shape of the grouped one, ungrouped
    plan = lc.plan(model, lc.DepthShared())
    assert [[site.name for site in group.sites] for group in plan.groups] == [["0", "1"], ["4", "5"]]
    assert {kept.site.name for kept in plan.kept} == {"2", "3"}


def test_a_blend_follows_the_last_call_of_a_stage_not_the_last_registered():
    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.late, self.early = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

        def forward(self, x):
            return self.late(self.early(x))

    plan = lc.plan(Crossed(), lc.DepthShared(blend=True), input_size=(4, 6, 6))
    lean = lc.convert(Crossed(), plan)
    assert lean.late.blend is not None
    assert lean.early.blend is None


def test_each_stage_has_a_blend_behind_its_own_last_use():
    conv = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(4)]
    model = nn.Sequential(conv[0], conv[1], nn.MaxPool2d(2), conv[2], conv[3])
    lean = lc.convert(model, lc.plan(model, lc.DepthShared(blend=True), input_size=(4, 8, 8)))
    assert [lean[index].blend is not None for index in (0, 1, 3, 4)] == [False, True, False, True]
    assert lean[0].bank is lean[4].bank


def test_penalty_is_a_mean_of_its_own_for_each_kind():
    torch.manual_seed(0)
    specs = [[lc.ConvSpec(6, 4, 1)] * 2, [lc.ConvSpec(6, 3, 1)] * 2, [lc.ConvSpec(4, 6, 3)] * 2]
    model = nn.ModuleList(m for group in specs for m in lc.DepthShared(penalty_weight=2.0).build(group))
    assert lc.penalty(model).item() == pytest.approx(0, abs=1e-10)  # starts orthogonal
    banks = [m.bank.weight for m in model if "bank" in m._modules]
    with torch.no_grad():
        for bank in banks:
            bank.normal_()
    errors = [(b.flatten(1) @ b.flatten(1).T - torch.eye(len(b))).square().sum().item() for b in banks]
    wanted = 2 * (errors[0] + errors[1]) / (16 + 9) + 2 * errors[2] / 36
    assert lc.penalty(model).item() == pytest.approx(wanted, rel=1e-5)


def test_a_shared_weight_gets_the_gradients_of_all_its_uses():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))).double()
    lean = lc.convert(model, lc.plan(model, lc.DepthShared()), init="fit")
    dense = lc.to_dense(lean)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    for network in (lean, dense):
        network(x).square().sum().backward()
    wanted = sum(conv.weight.grad for conv in dense)
    torch.testing.assert_close(lean[0].bank.weight.grad, wanted)
    torch.testing.assert_close(lean[0].bank.bias.grad, sum(conv.bias.grad for conv in dense))


def test_fit_is_the_mean_and_resets_the_blend():
    torch.manual_seed(0)
    convs = [nn.Conv2d(4, 4, 3) for _ in range(3)]
    method = lc.DepthShared(blend=(1,))
    modules = method.build([lc.ConvSpec.of(conv) for conv in convs])
    with torch.no_grad():
        modules[1].blend.normal_()
        method.fit_(modules, convs)
    torch.testing.assert_close(modules[2].weight, sum(conv.weight for conv in convs) / 3)
    torch.testing.assert_close(modules[2].bias, sum(conv.bias for conv in convs) / 3)
    assert torch.equal(modules[1].blend[:, :, 0, 0], torch.eye(4))
    assert modules[0].blend is modules[2].blend is None


def test_data_parallel_is_refused():
    lean = nn.ModuleList(lc.DepthShared().build([lc.ConvSpec(4, 4, 3)] * 2))
    lean[0]._replicate_for_data_parallel()
    with pytest.raises(lc.LeanconvError, match="use DistributedDataParallel"):
        lean[1]._replicate_for_data_parallel()


def adapted(layers: int = 3, rank: int = 2, **settings) -> list[lc.DepthSharedConv2d]:
    """Layers that share a weight, with random corrections."""
    spec = lc.ConvSpec(8, 12, 3, padding=1, **settings)
    modules = [module.double() for module in lc.DepthShared(adapter_rank=rank).build([spec] * layers)]
    for module in modules:
        nn.init.normal_(module.outer)
    return modules


def fitted(convs: list[nn.Conv2d], rank: int, stats=None) -> list[lc.DepthSharedConv2d]:
    method = lc.DepthShared(adapter_rank=rank)
    modules = [module.double() for module in method.build([lc.ConvSpec.of(conv) for conv in convs])]
    with torch.no_grad():
        method.fit_(modules, convs, stats)
    return modules


@torch.no_grad()
def missed(modules, convs) -> float:
    return sum(float((m.weight_dense() - c.weight).square().sum()) for m, c in zip(modules, convs, strict=True))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_correction_is_a_convolution_of_low_rank_beside_the_shared_one(groups):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    for module in adapted(groups=groups):
        nn.init.normal_(module.bank.bias)
        y = module(x)
        inner = nn.functional.conv2d(x, module.inner, padding=1, groups=groups)
        beside = nn.functional.conv2d(inner, module.outer, groups=groups)
        shared = nn.functional.conv2d(x, module.bank.weight, module.bank.bias, padding=1, groups=groups)
        torch.testing.assert_close(y, shared + beside)
        for form in module.inference_forms(None).values():
            torch.testing.assert_close(form()(x), y)
        module.compact_()
        torch.testing.assert_close(module(x), y)


def test_a_fresh_correction_is_zero_and_trains():
    first, second = lc.DepthShared(adapter_rank=1).build([lc.ConvSpec(4, 4, 3)] * 2)
    assert torch.equal(first.weight_dense(), second.weight_dense())
    first(torch.randn(1, 4, 5, 5)).sum().backward()
    assert first.outer.grad.abs().sum() > 0 and first.bank.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("layers", [2, 3, 5])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_fit_finds_a_shared_weight_and_corrections_exactly(layers, groups):
    torch.manual_seed(0)
    convs = [module.to_conv() for module in adapted(layers, groups=groups)]
    assert missed(fitted(convs, 2), convs) < 1e-18
    assert missed(fitted(convs, 1), convs) > 0.1


def test_two_layers_are_fitted_as_well_as_possible():
    """The shared weight is free, so only the difference counts: half of what remains of it beyond rank 2 r."""
    torch.manual_seed(0)
    convs = [nn.Conv2d(8, 12, 3).double() for _ in range(2)]
    rest = torch.linalg.svdvals((convs[0].weight - convs[1].weight).detach().flatten(1))[4:]
    assert missed(fitted(convs, 2), convs) == pytest.approx(float(rest.square().sum()) / 2, rel=1e-6)


def test_corrections_only_help_and_a_higher_rank_more():
    torch.manual_seed(0)
    convs = [nn.Conv2d(8, 12, 3).double() for _ in range(4)]
    errors = [missed(fitted(convs, rank), convs) for rank in range(6)]
    assert all(more < 0.95 * less for less, more in pairwise(errors)), errors
    mean = torch.stack([conv.weight.detach() for conv in convs]).mean(0)
    plain = sum(float(torch.linalg.svdvals((c.weight.detach() - mean).flatten(1))[2:].square().sum()) for c in convs)
    assert errors[2] <= plain


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_fit_to_moments_without_corrections_is_least_squares(bias, groups):
    torch.manual_seed(0)
    convs = [nn.Conv2d(4, 6, 3, padding=1, bias=bias, groups=groups).double() for _ in range(3)]
    xs = [images(4, seed=i) * (i + 1) for i in range(3)]
    modules = fitted(convs, 0, [moments_of(conv, x) for conv, x in zip(convs, xs, strict=True)])
    us, ys = [], []
    for conv, x in zip(convs, xs, strict=True):
        u = nn.functional.unfold(x[:, : 4 // groups], 3, padding=1).transpose(1, 2).flatten(0, 1)
        us.append(torch.cat([u, torch.ones_like(u[:, :1])], 1) if bias else u)
        ys.append(conv(x)[:, : 6 // groups].flatten(2).transpose(1, 2).flatten(0, 1))
    best = torch.linalg.lstsq(torch.cat(us), torch.cat(ys)).solution.T  # of the first group
    weight = modules[0].bank.weight.flatten(1)[: 6 // groups]
    torch.testing.assert_close(weight, best[:, : weight.shape[1]], rtol=1e-3, atol=1e-4)
    if bias:
        torch.testing.assert_close(modules[0].bias[: 6 // groups], best[:, -1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_no_descent_improves_the_fit_to_moments(bias, groups):
    torch.manual_seed(0)
    convs = [nn.Conv2d(4, 6, 3, padding=1, bias=bias, groups=groups).double().requires_grad_(False) for _ in range(3)]
    xs = [images(4, seed=seed) for seed in range(3)]
    stats = [moments_of(conv, x) for conv, x in zip(convs, xs, strict=True)]

    def total(modules) -> float:
        return sum(output_error(module, conv, x) for module, conv, x in zip(modules, convs, xs, strict=True))

    modules = fitted(convs, 1, stats)
    found = total(modules)
    assert found < 0.95 * total(fitted(convs, 1)), (found, total(fitted(convs, 1)))
    assert found < 0.95 * total(fitted(convs, 0, stats))
    parameters = list(dict.fromkeys(p for module in modules for p in [*module.parameters(), *module.bank.parameters()]))
    descent = torch.optim.LBFGS(parameters, max_iter=40, line_search_fn="strong_wolfe")

    def closure():
        descent.zero_grad()
        pairs = zip(modules, convs, xs, strict=True)
        loss = sum((module(x) - conv(x)).square().sum(1).mean() for module, conv, x in pairs)
        loss.backward()
        return loss

    descent.step(closure)
    assert total(modules) > 0.99 * found


def test_a_correction_that_saves_nothing_stays_dense():
    spec = lc.ConvSpec(8, 8, 3, groups=8)
    assert "80 weights, and 3x3 8->8, depthwise itself has 72" in lc.DepthShared(adapter_rank=1).reject(spec)
    assert lc.DepthShared(adapter_rank=8).reject(lc.ConvSpec(8, 8, 3)) is not None
    assert lc.DepthShared(adapter_rank=7).reject(lc.ConvSpec(8, 8, 3)) is None
    with pytest.raises(lc.LeanconvError, match="adapter_rank=-1"):
        lc.DepthShared(adapter_rank=-1)


def test_files_and_exports_hold_the_shared_weight_once(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4)))
    lean = lc.convert(model, lc.plan(model, lc.DepthShared(adapter_rank=2)), init="fit").eval()
    weights = 16 * 144 + 16 + 4 * 2 * (144 + 16)
    assert lc.count(lean).params == weights
    lc.save(lean, tmp_path / "lean")
    again = lc.load(tmp_path / "lean", model=model)
    x = torch.randn(1, 16, 8, 8)
    assert torch.equal(again(x), lean(x)) and again[3].bank is again[0].bank
    pytest.importorskip("onnx")
    path = tmp_path / "lean.onnx"
    lc.export(lean, path, example=x, verify=False)
    assert path.stat().st_size < 4 * weights + 20_000 < 4 * 4 * 16 * 144
