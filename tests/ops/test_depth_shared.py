"""One weight through the depth: its counts, its blends, its penalty, its fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc


def test_resnet50_shared_has_the_papers_count():
    """Filter bases, section 4.2: from block 2 on, first 1x1 and 3x3 of the bottlenecks shared in each stage."""
    model = lc.create_model("torchvision/resnet50")
    method = lc.DepthShared(scope="stage", penalty_weight=10.0)
    later = [f"layer{stage}.{block}.conv" for stage in (1, 2, 3, 4) for block in range(1, 6)]
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
