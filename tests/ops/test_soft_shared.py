"""Soft sharing: who mixes from which bank, gradients, counts, and an optimal fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.ops.soft_shared import TemplateBank


def test_weights_are_mixed_from_the_templates_of_one_bank():
    specs = [lc.ConvSpec(4, 6, 3, padding=1), lc.ConvSpec(4, 6, 3, (2, 2)), lc.ConvSpec(4, 6, 3, bias=False)]
    layers = lc.SoftShared(templates=2).build(specs)
    x = torch.randn(2, 4, 7, 6)
    first, second = layers[0].bank.weight.split(6)
    for layer, spec in zip(layers, specs, strict=True):
        assert layer.bank is layers[0].bank
        a, b = layer.coefficients
        wanted = nn.functional.conv2d(x, a * first + b * second, layer.bias, spec.stride, spec.padding)
        torch.testing.assert_close(layer(x), wanted)
    assert sum(p.numel() for p in nn.ModuleList(layers).parameters()) == 2 * 4 * 6 * 9 + 3 * 2 + 2 * 6
    assert lc.SoftShared(templates=2).params(specs) == 2 * 4 * 6 * 9 + 3 * 2 + 2 * 6


def test_layers_start_with_coefficients_of_length_one_as_different_as_can_be():
    layers = lc.SoftShared(templates=3).build([lc.ConvSpec(4, 4, 3)] * 3)
    rows = torch.stack([layer.coefficients for layer in layers])
    torch.testing.assert_close(rows @ rows.T, torch.eye(3), rtol=1e-5, atol=1e-5)
    layers = lc.SoftShared(templates=2).build([lc.ConvSpec(64, 64, 3)] * 4)
    for layer in layers:
        assert layer.coefficients.norm().item() == pytest.approx(1)
        assert layer.weight_dense().std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_groups_are_of_one_shape_in_one_stage():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, bias=False),
        nn.Conv2d(4, 4, 3, 2, 1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 6, 3, padding=1),
    )
    plan = lc.plan(model, lc.SoftShared(), input_size=(4, 8, 8))
    assert [[site.name for site in group.sites] for group in plan.groups] == [["0", "1"], ["2", "3"]]
    assert plan.kept[0].reason == "nothing to share with: no other 3x3 4->6 in its stage"
    with pytest.raises(SettingError, match="shares weights within a stage, and the stage of '0' is unknown"):
        lc.plan(model, lc.SoftShared())


def test_the_bank_gets_the_gradients_of_all_its_users():
    layers = lc.SoftShared(templates=2).build([lc.ConvSpec(4, 4, 3, padding=1)] * 3)
    model = nn.Sequential(*layers).double()
    dense = nn.Sequential(*(layer.to_conv() for layer in layers))
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    for network in (model, dense):
        network(x).square().sum().backward()
    for j in range(2):
        wanted = sum(layer.coefficients[j] * conv.weight.grad for layer, conv in zip(layers, dense, strict=True))
        torch.testing.assert_close(layers[0].bank.weight.grad[4 * j : 4 * (j + 1)], wanted)
    for layer, conv in zip(layers, dense, strict=True):
        products = [(template * conv.weight.grad).sum() for template in layers[0].bank.weight.split(4)]
        torch.testing.assert_close(layer.coefficients.grad, torch.stack(products))


@pytest.mark.parametrize("templates", [1, 2, 3, 5])
def test_fit_meets_the_bound_of_eckart_and_young(templates):
    convs = [nn.Conv2d(4, 4, 3).double() for _ in range(4)]
    method = lc.SoftShared(templates)
    layers = method.build([lc.ConvSpec.of(conv) for conv in convs])
    nn.ModuleList(layers).double()
    with torch.no_grad():
        method.fit_(layers, convs)
    error = sum((layer.weight_dense() - conv.weight).square().sum() for layer, conv in zip(layers, convs, strict=True))
    stacked = torch.stack([conv.weight.flatten() for conv in convs])
    torch.testing.assert_close(error, torch.linalg.svdvals(stacked)[templates:].square().sum())
    sizes = layers[0].bank.weight.unflatten(0, (templates, -1)).flatten(1).norm(dim=1)
    assert sizes.min() > 0.1 * stacked.norm(dim=1).mean()  # also those that no layer needs


def test_wide_resnet_saves_the_layers_beyond_its_templates():
    """Wide ResNet 16-4: each stage has three more 3x3 convolutions of one shape behind its first block's."""
    convs = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1, bias=False) for _ in range(4))
    model = nn.Sequential(*convs)
    for templates in (1, 2, 4):
        plan = lc.plan(model, lc.SoftShared(templates), input_size=(64, 8, 8))
        assert plan.params() == lc.count(lc.convert(model, plan)).params == templates * 64 * 64 * 9 + 4 * templates


def test_refusals_say_why():
    with pytest.raises(SettingError, match="templates=0 must be a whole number of at least 1"):
        lc.SoftShared(0)
    with pytest.raises(
        SettingError, match=r"a bank of shape \(2, 4, 4, 3, 3\) cannot serve 2 templates of weight shape"
    ):
        lc.SoftSharedConv2d(4, 6, 3, bank=TemplateBank(2, (4, 4, 3, 3)))
    with pytest.raises(SettingError, match="cannot serve 3 templates"):
        lc.SoftSharedConv2d(4, 4, 3, templates=3, bank=TemplateBank(2, (4, 4, 3, 3)))
