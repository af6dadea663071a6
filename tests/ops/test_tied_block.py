"""Tied blocks by their defining equations, and the modules made of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError


def test_eq_3_every_block_of_channels_meets_the_same_filters():
    op = lc.TiedBlockConv2d(8, 12, 3, padding=1, blocks=4)
    x = torch.randn(2, 8, 5, 6)
    blocks = [nn.functional.conv2d(part, op.weight, op.bias, padding=1) for part in x.chunk(4, 1)]
    torch.testing.assert_close(op(x), torch.cat(blocks, 1))


@pytest.mark.parametrize("form", ["grouped", "fold"])
def test_eq_4_with_groups_channels_are_ordered_by_group_then_block(form):
    """TGC: X_11 * W_1, X_12 * W_1, X_21 * W_2, X_22 * W_2; the release's block-major order is another function."""
    op = lc.TiedBlockConv2d(8, 12, 3, padding=1, groups=2, blocks=2)
    op.form = form
    x = torch.randn(2, 8, 5, 6)
    banks, biases = op.weight.chunk(2), op.bias.chunk(2)
    parts = x.chunk(4, 1)
    wanted = [nn.functional.conv2d(parts[i], banks[i // 2], biases[i // 2], padding=1) for i in range(4)]
    torch.testing.assert_close(op(x), torch.cat(wanted, 1))
    block_major = [nn.functional.conv2d(parts[i], banks[i % 2], biases[i % 2], padding=1) for i in range(4)]
    assert not torch.allclose(op(x), torch.cat(block_major, 1))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "settings", [dict(stride=2), dict(dilation=2, padding="same"), dict(padding_mode="reflect", padding=1)]
)
def test_forms_are_equal(groups, settings):
    op = lc.TiedBlockConv2d(8, 16, 3, groups=groups, blocks=2, **settings).double()
    for x in (torch.randn(3, 8, 9, 7).double(), torch.randn(3, 8, 9, 7).double().to(memory_format=torch.channels_last)):
        out = []
        for op.form in ("grouped", "fold"):
            out.append(op(x))
        torch.testing.assert_close(*out)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_fold_form_traces_compiles_and_exports(groups):
    op = lc.TiedBlockConv2d(8, 16, 3, padding=1, groups=groups, blocks=2).double().eval()
    op.form = "fold"
    x, other = torch.randn(2, 8, 6, 6).double(), torch.randn(3, 8, 7, 9).double()
    torch.testing.assert_close(torch.fx.symbolic_trace(op)(other), op(other))
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(op, backend="aot_eager", fullgraph=True)(x), op(x))
    dynamic = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    torch.testing.assert_close(torch.export.export(op, (x,), dynamic_shapes=(dynamic,)).module()(other), op(other))
    assert op(x[:0]).shape == (0, 16, 6, 6)


def test_bad_blocks_name_the_ones_that_would_do():
    with pytest.raises(SettingError, match=r"blocks=4 must divide in_channels=18; 1, 2, 3, 6, 9 or 18 would"):
        lc.TiedBlockConv2d(18, 36, 3, blocks=4)
    with pytest.raises(SettingError, match=r"blocks=2 must divide in_channels=6 / groups=3; 1 or 3 would"):
        lc.TiedBlockConv2d(6, 6, 3, groups=2, blocks=2)
    with pytest.raises(SettingError, match=r"blocks=3 must divide in_features=8; 1, 2 or 4 would"):
        lc.TiedBlockLinear(8, 4, blocks=3)


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 4, 8), (0, 8)])
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_tied_linear_equals_a_block_diagonal_linear(shape, blocks):
    op = lc.TiedBlockLinear(8, 12, blocks=blocks).double()
    x = torch.randn(shape, dtype=torch.float64)
    wanted = nn.functional.linear(x, op.weight_dense(), op.bias_dense())
    torch.testing.assert_close(op(x), wanted)
    assert sum(p.numel() for p in op.parameters()) == 96 // blocks**2 + 12 // blocks
    assert torch.autograd.gradcheck(op, (x.requires_grad_(),))


def test_tied_linear_fit_is_nearest_and_exact_for_one_block():
    torch.manual_seed(0)
    linear = nn.Linear(8, 12)
    assert torch.equal(lc.TiedBlockLinear(8, 12, blocks=1).fit_(linear).weight, linear.weight)
    op = lc.TiedBlockLinear(8, 12, blocks=2).fit_(linear)
    blocks = [linear.weight[:6, :4], linear.weight[6:, 4:]]
    torch.testing.assert_close(op.weight, (blocks[0] + blocks[1]) / 2)


# SE-ResNet50's 16 blocks, reduction 16 (Table 3 of the paper: 2.53, 0.64, 0.16, 0.04 M for B = 1, 2, 4, 8)
SE_RESNET50 = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3


@pytest.mark.parametrize(("blocks", "millions"), [(1, 2.531), (2, 0.637), (4, 0.161), (8, 0.0413)])
def test_tied_se_has_the_papers_counts(blocks, millions):
    total = sum(lc.count(lc.TiedSE(channels, blocks=blocks)).params for channels in SE_RESNET50)
    assert total / 1e6 == pytest.approx(millions, abs=0.0006)


def test_tied_global_context_has_the_papers_counts():
    """13 blocks of ResNet-50's c3-c5, reduction 4: 10.00 M -> 2.52 M at B = 2 (Table 4)."""
    widths = [512] * 4 + [1024] * 6 + [2048] * 3
    totals = [sum(lc.count(lc.TiedGlobalContext(c, blocks=b)).params for c in widths) / 1e6 for b in (1, 2)]
    assert totals == [pytest.approx(10.00, abs=0.05), pytest.approx(2.52, abs=0.01)]


@pytest.mark.parametrize("block", [lc.TiedSE, lc.TiedGlobalContext])
def test_attention_blocks_by_their_equations(block):
    torch.manual_seed(0)
    op = block(16, 4, blocks=2).double()
    if block is lc.TiedGlobalContext:
        x = torch.randn(2, 16, 5, 7).double()
        torch.testing.assert_close(op(x), x)  # starts as the identity
        nn.init.normal_(op.expand.weight)
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64, requires_grad=True)
    if block is lc.TiedSE:
        hidden = torch.relu(op.squeeze(x.mean((2, 3))))
        wanted = x * torch.sigmoid(op.expand(hidden))[:, :, None, None]
    else:
        attention = torch.softmax(op.mask(x).reshape(2, -1), 1)
        context = (x.reshape(2, 16, -1) * attention[:, None]).sum(-1)[:, :, None, None]
        wanted = x + op.expand(torch.relu(op.norm(op.squeeze(context))))
    torch.testing.assert_close(op(x), wanted)
    assert torch.autograd.gradcheck(op, (x,), fast_mode=True)
    exported = torch.export.export(op.eval(), (x.detach(),)).module()
    torch.testing.assert_close(exported(x), op(x))


def test_attention_blocks_refuse_widths_that_break_the_square_law():
    with pytest.raises(SettingError, match="reduction=16 must divide channels=24"):
        lc.TiedSE(24)
    with pytest.raises(SettingError, match="blocks=4 must divide out_features=2"):
        lc.TiedSE(32, 16, blocks=4)
