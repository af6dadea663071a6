"""The split convolution by its equations, its variants, and its fused gate."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.ops.gated_sum import gated_sum
from leanconv.ops.split import representative_channels
from tests.ops.contract import unsettle_


def plain_gated_sum(a, b):
    """Eqs. 4-6 of the paper, letter by letter."""
    means = torch.stack([a.mean((2, 3)), b.mean((2, 3))])
    beta, gamma = torch.softmax(means, 0)[..., None, None]
    return beta * a + gamma * b


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gated_sum_and_its_gradients_equal_the_plain_form(layout):
    torch.manual_seed(0)
    a, b, dy = (torch.randn(3, 4, 5, 6, dtype=torch.float64).to(memory_format=layout) for _ in range(3))
    ours = [t.clone().requires_grad_() for t in (a, b)]
    plain = [t.clone().requires_grad_() for t in (a, b)]
    y, wanted = gated_sum(*ours), plain_gated_sum(*plain)
    torch.testing.assert_close(y, wanted)
    assert y.is_contiguous(memory_format=layout)
    y.backward(dy)
    wanted.backward(dy)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    with torch.no_grad():
        torch.testing.assert_close(gated_sum(a, b), wanted)
    assert torch.autograd.gradcheck(gated_sum, tuple(ours))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (2, 1)])
def test_eq_7_branch_by_branch(stride, size):
    torch.manual_seed(0)
    op = lc.SplitConv2d(8, 6, 3, stride, 1, ratio=0.5).double().eval()
    unsettle_(op)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    kernel = torch.zeros(6, 4, 3, 3, dtype=torch.float64)  # the grouped kernel is block-diagonal (eq. 3)
    kernel[:3, :2], kernel[3:, 2:] = op.grouped.weight[:3], op.grouped.weight[3:]
    height, width = (-(-s // stride) for s in size)
    averaged = torch.stack(
        [
            x[:, :, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride].mean((2, 3))
            for i in range(height)
            for j in range(width)
        ],
        -1,
    ).unflatten(-1, (height, width))
    representative, rest = averaged[:, :4], averaged[:, 4:]
    u3 = nn.functional.conv2d(x[:, :4], kernel, None, stride, 1) + op.point(representative)
    u1 = op.redundant(rest)
    torch.testing.assert_close(op(x), plain_gated_sum(op.norm3(u3), op.norm1(u1)))


@pytest.mark.parametrize(
    "kernel",
    [
        dict(kernel_size=3, padding=1),
        dict(kernel_size=(2, 4), padding="same"),
        dict(kernel_size=(3, 1), padding=(2, 0), dilation=2),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_merged_form_trains_as_the_plain_one(kernel, layout):
    torch.manual_seed(0)
    merged = lc.SplitConv2d(8, 6, **kernel, padding_mode="circular", ratio=0.5).double().train()
    plain = copy.deepcopy(merged)
    assert merged.merges
    plain.merges = False
    x, dy = torch.randn(2, 8, 7, 6, dtype=torch.float64), torch.randn(2, 6, 7, 6, dtype=torch.float64)
    results = []
    for op in (merged, plain):
        leaf = x.to(memory_format=layout).requires_grad_()
        y = op(leaf)
        y.backward(dy)
        results.append([y, leaf.grad, *(parameter.grad for parameter in op.parameters()), *op.buffers()])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_where_merging_would_differ_or_cost_it_is_not_done():
    assert lc.SplitConv2d(64, 64, 3, padding=1).merges
    assert not lc.SplitConv2d(128, 128, 3, padding=1).merges
    assert not lc.SplitConv2d(8, 8, 3, 2, 1).merges
    assert not lc.SplitConv2d(8, 8, 3, padding=1, representative="chain").merges
    assert not lc.SplitConv2d(8, 8, 3, padding=1, representative="full").merges
    assert lc.SplitConv2d(8, 8, 3, padding=1, redundant=False).merges


@pytest.mark.parametrize(
    ("channels", "ratio", "groups", "wanted"),
    [
        (16, 0.5, 2, 8),
        (3, 0.5, 1, 2),
        (3, 0.5, 2, 2),
        (7, 0.5, 2, 4),
        (16, 0.01, 2, 2),
        (10, 1.0, 4, 8),
        (12, 0.375, 1, 5),
    ],
)
def test_representative_channels_round_to_the_groups(channels, ratio, groups, wanted):
    assert representative_channels(channels, ratio, groups) == wanted


# Table 4 of the paper, every 3x3 of ResNet-20 but the first: it prints 0.10, 0.12, 0.15, 0.10, 0.088 M, cut off, not rounded
VARIANTS = [
    (lc.Split(), 0.1051),
    (lc.Split(representative="chain"), 0.1225),
    (lc.Split(representative="full"), 0.1570),
    (lc.Split(fusion=False), 0.1051),
    (lc.Split(redundant=False), 0.0882),
]


@pytest.mark.parametrize(("method", "millions"), VARIANTS, ids=lambda value: getattr(value, "label", lambda: None)())
def test_ablation_variants_have_the_papers_counts(method, millions):
    model = lc.create_model("resnet20")
    lean = lc.convert(model, lc.plan(model, method, exclude="conv1"))
    assert lc.count(lean).params / 1e6 == pytest.approx(millions, abs=5e-5)


@pytest.mark.parametrize("method", [method for method, _ in VARIANTS], ids=lambda method: method.label())
def test_trains_in_bf16_channels_last(method):
    torch.manual_seed(0)
    model = lc.create_model("resnet8")
    lean = lc.convert(model, lc.plan(model, method, exclude="conv1")).to(memory_format=torch.channels_last).train()
    x = torch.randn(4, 3, 16, 16).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = lean(x)
    y.float().logsumexp(1).mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in lean.parameters())


def test_refusals_say_why():
    with pytest.raises(SettingError, match=r"ratio=7\.0 must be a number above 0 and at most 1"):
        lc.SplitConv2d(8, 8, 3, padding=1, ratio=7.0)
    with pytest.raises(SettingError, match="groups=0 must be a whole number of at least 1"):
        lc.SplitConv2d(8, 8, 3, padding=1, own_groups=0)
    with pytest.raises(SettingError, match=r"stride=\(3, 3\) must be 1 or 2"):
        lc.SplitConv2d(8, 8, 3, 3, 1)
    with pytest.raises(SettingError, match="the branches differ in size"):
        lc.SplitConv2d(8, 8, 3)
    with pytest.raises(
        SettingError, match=r"groups=2 must divide out_channels=9 and not exceed in_channels=8; 1 or 3 would"
    ):
        lc.SplitConv2d(8, 9, 3, padding=1)


@pytest.mark.filterwarnings(r"ignore:`torch.jit.\w+` is deprecated:FutureWarning")  # torch's own forward mode
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gated_sum_under_every_kind_of_derivative(layout):
    torch.manual_seed(0)
    a, b = (torch.randn(2, 3, 4, 6, dtype=torch.float64).to(memory_format=layout) for _ in range(2))
    leaves = [t.clone().requires_grad_() for t in (a, b)]
    checks = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(gated_sum, leaves, **checks)
    assert torch.autograd.gradgradcheck(gated_sum, leaves, check_fwd_over_rev=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda a: gated_sum(a, b), leaves[:1])

    def cubes(form):
        return lambda a, b: (form(a, b) ** 3).sum()

    transforms = (
        lambda form: torch.func.vmap(torch.func.grad(cubes(form), (0, 1)))(a[:, None], b[:, None]),
        lambda form: torch.func.vmap(torch.func.grad(cubes(form)), in_dims=(0, None))(a[:, None], b[:1]),
        lambda form: torch.func.hessian(cubes(form), (0, 1))(a, b),
        lambda form: torch.func.jacrev(torch.func.jacfwd(cubes(form)))(a, b),
        lambda form: torch.func.vmap(torch.func.hessian(cubes(form)))(a[:, None], b[:, None]),
    )
    for transform in transforms:
        found, wanted = (torch.utils._pytree.tree_leaves(transform(form)) for form in (gated_sum, plain_gated_sum))
        torch.testing.assert_close(found, wanted)


def test_second_derivatives_of_gated_sum_in_bfloat16():
    torch.manual_seed(0)
    halves = [torch.randn(4, 16, 8, 8).to(torch.bfloat16, memory_format=torch.channels_last) for _ in range(2)]
    found = []
    for dtype in (torch.bfloat16, torch.float64):
        a, b = (t.to(dtype).requires_grad_() for t in halves)
        (gradient,) = torch.autograd.grad((gated_sum(a, b).double() ** 3).mean(), a, create_graph=True)
        found.append(torch.autograd.grad(1e6 * gradient.double().square().mean(), (a, b)))
    for ours, wanted in zip(*found, strict=True):
        assert (ours.double() - wanted).norm() < 0.03 * wanted.norm()


def test_a_relu_in_place_may_follow_the_gate():
    for layout in (torch.contiguous_format, torch.channels_last):
        op = lc.SplitConv2d(8, 8, 3, padding=1).to(memory_format=layout)
        x = torch.randn(2, 8, 4, 4).to(memory_format=layout)
        wanted = op(x).relu().sum()
        wanted.backward()
        before = op.grouped.weight.grad.clone()
        op.zero_grad()
        torch.relu_(op(x)).sum().backward()
        torch.testing.assert_close(op.grouped.weight.grad, before)


@pytest.mark.parametrize("fusion", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_fit_is_exact_where_a_split_can_hold_the_convolution(stride, fusion):
    """Grouped taps anywhere, and beyond the groups only taps that a 1x1 on the pooled map can hold."""
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, 3, stride, 1).double()
    pixels = slice(1, 1 + stride)  # of the kernel: those that fall on the pixels of the output's own window
    with torch.no_grad():
        everywhere = conv.weight.clone()
        conv.weight.zero_()
        conv.weight[:, :, pixels, pixels] = torch.randn(6, 8, 1, 1).double()
        conv.weight[:3, :2], conv.weight[3:, 2:4] = everywhere[:3, :2], everywhere[3:, 2:4]
    method = lc.Split(0.5, groups=2, fusion=fusion)
    module = method.build([lc.ConvSpec.of(conv)])[0].double().eval()
    with torch.no_grad():
        method.fit_([module], [conv])
    module.fusion = False  # the gate's two halves of the sum
    x = torch.randn(2, 8, 8, 8).double()
    torch.testing.assert_close(module(x) / (2 if fusion else 1), conv(x), rtol=1e-9, atol=1e-9)
