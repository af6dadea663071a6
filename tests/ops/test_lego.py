"""Lego filters by their equation, the gradients of their choice, their counts and their fit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.ops import lego as module
from leanconv.ops.lego import nearest_lines


def lego(**settings) -> lc.LegoConv2d:
    op = lc.LegoConv2d(8, 6, 3, 2, 1, **settings).double()
    nn.init.normal_(op.coefficients)
    nn.init.normal_(op.bias)
    return op


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("splits", "ratio", "count"), [(2, 0.5, 3), (4, 0.25, 2), (1, 1.0, 6), (8, 0.01, 1)])
def test_each_output_adds_one_lego_of_each_part(splits, ratio, count, training):
    op = lego(splits=splits, ratio=ratio).train(training)
    assert op.weight.shape == (count, 8 // splits, 3, 3)
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    y = op(x)
    for t in range(6):
        wanted = op.bias[t]
        for i, part in enumerate(x.chunk(splits, 1)):
            chosen = max(range(count), key=lambda j, t=t, i=i: op.selector[t, i, j].item())
            map_ = nn.functional.conv2d(part, op.weight[chosen][None], stride=2, padding=1)[:, 0]
            wanted = wanted + op.coefficients[t, i] * map_
            assert op.chosen()[t, i] == chosen
        torch.testing.assert_close(y[:, t], wanted)


@pytest.mark.parametrize("compose_above", [0.0, 9.0])
@pytest.mark.parametrize(("splits", "ratio"), [(2, 0.5), (4, 0.25), (1, 1.0)])
def test_training_has_the_gradients_of_the_equation(splits, ratio, compose_above, monkeypatch):
    monkeypatch.setattr(module, "COMPOSE_ABOVE", compose_above)
    op = lego(splits=splits, ratio=ratio).train()
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    leaves = [x, op.weight, op.coefficients, op.bias]
    y, wanted = op(x), nn.functional.conv2d(x, op.weight_dense(), op.bias, 2, 1)
    torch.testing.assert_close(y, wanted)
    assert y.is_contiguous(memory_format=torch.channels_last)
    found = torch.autograd.grad(y.sin().sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad(wanted.sin().sum(), leaves))


def test_the_selector_gets_the_gradient_of_the_one_hot_choice():
    op = lego(splits=2, ratio=0.5).train()
    x = torch.randn(3, 8, 6, 6, dtype=torch.float64)
    dy = torch.randn(3, 6, 3, 3, dtype=torch.float64)
    op(x).backward(dy)
    choice = nn.functional.one_hot(op.chosen(), 3).double().requires_grad_()
    weight = torch.einsum("ti,tij,jckl->tickl", op.coefficients, choice, op.weight).flatten(1, 2)
    found = torch.autograd.grad(
        nn.functional.conv2d(x, weight, op.bias, 2, 1), [choice, op.weight, op.coefficients, op.bias], dy
    )
    own = [op.selector, op.weight, op.coefficients, op.bias]
    for parameter, wanted in zip(own, found, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)
    assert op.selector.grad.ne(0).all()  # also of those that are not chosen


def test_training_can_change_the_choice():
    op = lego(splits=2, ratio=0.5).train()
    before = op.chosen()
    x = torch.randn(4, 8, 6, 6, dtype=torch.float64)
    wanted = torch.randn(4, 6, 3, 3, dtype=torch.float64)
    optimizer = torch.optim.SGD([op.selector], lr=0.5)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (op(x) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert not torch.equal(op.chosen(), before)
    assert min(losses) < losses[0]


@pytest.mark.parametrize(("splits", "ratio", "params"), [(2, 0.5, 3_678_976), (4, 0.25, 921_088)])
def test_vgg16_has_the_papers_legos(splits, ratio, params):
    """ShardNet's Table 1b: 3.7 M and 900 K, the first convolution (with its bias) plain, selectors and coefficients out."""
    with torch.device("meta"):
        model = lc.create_model("vgg16", head="linear", conv_bias=False)
    lean = lc.convert(model, lc.plan(model, lc.Lego(splits, ratio), exclude="block1.conv1"))
    legos = sum(module.weight.numel() for module in lean.modules() if isinstance(module, lc.LegoConv2d))
    assert legos + 3 * 64 * 9 + 64 == params
    left_out = sum(p.numel() for name, p in lean.named_parameters() if name.endswith(("selector", "coefficients")))
    widths = [64, *[128] * 2, *[256] * 3, *[512] * 6]  # of convolutions 2 to 13
    assert left_out == sum(splits * width * (ratio * width + 1) for width in widths)


def test_fit_recovers_a_lego_layer_from_its_dense_weight():
    op = lego(splits=2, ratio=0.5)
    conv = op.to_conv()
    method = lc.Lego(2, 0.5)
    again = method.build([op.spec])[0].double()
    with torch.no_grad():
        method.fit_([again], [conv])
    torch.testing.assert_close(again.weight_dense(), conv.weight)
    torch.testing.assert_close(again.bias, op.bias)


def test_fit_improves_on_the_greedy_choice_and_legos_are_as_large_as_what_they_stand_for():
    torch.manual_seed(0)
    rows = torch.randn(64, 12, dtype=torch.float64)

    def error(lines):
        return (rows.square().sum(1) - (rows @ lines.T).square().max(1).values).sum().item()

    errors = [error(nearest_lines(rows, 8, sweeps)[0]) for sweeps in (0, 1, 3, 20)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.95 * errors[0]
    assert errors[0] < error(nn.functional.normalize(torch.randn(8, 12, dtype=torch.float64), dim=1))
    assert error(nearest_lines(rows[:5], 8)[0]) > 0  # lines through five rows do not meet the others
    lines, chosen = nearest_lines(rows[:5], 8)  # more lines than rows
    torch.testing.assert_close((rows[:5] * lines[chosen]).sum(1).square(), rows[:5].square().sum(1))

    conv = nn.Conv2d(8, 16, 3)
    op = lc.Lego().build([lc.ConvSpec.of(conv)])[0]
    with torch.no_grad():
        lc.Lego().fit_([op], [conv])
    assert 0.5 < op.coefficients.square().mean().sqrt() < 1.5


def test_refusals_say_why():
    with pytest.raises(SettingError, match="splits=4 must divide in_channels=6; 1, 2, 3 or 6 would"):
        lc.LegoConv2d(6, 8, 3, splits=4)
    with pytest.raises(SettingError, match="groups=2; lego filters are combined over all input channels"):
        lc.LegoConv2d(8, 8, 3, groups=2)
    with pytest.raises(SettingError, match="ratio=0 must be a number above 0 and at most 1"):
        lc.Lego(ratio=0)
    with pytest.raises(SettingError, match="splits=0 must be a whole number of at least 1"):
        lc.Lego(splits=0)


def test_a_coefficient_for_each_lego_filter():
    """The release: kernel[t, j] = coefficient[t, i, j] at the selected j of part i, and 0 elsewhere."""
    op = lego(splits=2, ratio=0.5, coefficients="lego", rounding="down")
    assert op.coefficients.shape == (6, 2, 3)
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    hard = nn.functional.one_hot(op.selector.argmax(2), 3)
    wanted = op.bias[None, :, None, None]
    for i, part in enumerate(x.chunk(2, 1)):
        maps = nn.functional.conv2d(part, op.weight, stride=2, padding=1)
        wanted = wanted + nn.functional.conv2d(maps, (op.coefficients[:, i] * hard[:, i])[:, :, None, None])
    torch.testing.assert_close(op.train()(x), wanted)
    torch.testing.assert_close(op.eval()(x), wanted)


@pytest.mark.parametrize(("out", "ratio", "rounding", "count"), [(10, 0.37, "nearest", 4), (10, 0.37, "down", 3)])
def test_how_many_lego_filters(out, ratio, rounding, count):
    method = lc.Lego(2, ratio, rounding=rounding)
    (op,) = method.build([lc.ConvSpec(8, out, 3)])
    assert len(op.weight) == count == int(out * ratio + (0.5 if rounding == "nearest" else 0))
    assert method.params([lc.ConvSpec(8, out, 3)]) == sum(p.numel() for p in op.parameters())


def test_the_balance_has_the_gradient_of_the_release():
    """copy_grad of the release adds b (n - ceil a) or -b (floor a - n) for each lego filter to the gradient of the selector."""
    torch.manual_seed(0)
    op = lc.LegoConv2d(8, 10, 3, splits=2, ratio=0.3, balance=0.25)
    idxs, mean = op.selector.argmax(2).flatten().tolist(), 2 * 10 / 3
    wanted = torch.zeros_like(op.selector)
    for j in range(3):
        n = idxs.count(j)
        if n < math.floor(mean):
            wanted[:, :, j] -= 0.25 * (math.floor(mean) - n)
        if n > math.ceil(mean):
            wanted[:, :, j] += 0.25 * (n - math.ceil(mean))
    assert wanted.any()
    lc.penalty(op).backward()
    torch.testing.assert_close(op.selector.grad, wanted)
    both = nn.Sequential(op, lc.LegoConv2d(10, 10, 3, splits=2, ratio=0.3, balance=0.25))
    op.selector.grad = None
    lc.penalty(both).backward()
    torch.testing.assert_close(op.selector.grad, wanted)  # layers add up
    assert lc.LegoConv2d(8, 10, 3).penalty_terms() == []
