"""Norms as training leaves them: scales next to nothing, variances next to nothing, scales beyond the dtype."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.inference.optimize import forms_chosen, optimize

GAMMAS = (0.0, 1e-3, -1e-3, 1e-5, -1e-5, 1e-8, -1e-8, 1e-30, -1e-30, 1e-39, 1.0, -0.5)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WIDTH = len(GAMMAS)


def lean(method: lc.Method | None) -> nn.Module:
    """Three layers of 12 channels with norms behind; the scales of the norms are `GAMMAS`."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs in (3, WIDTH, WIDTH):
        layers += [nn.Conv2d(inputs, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()]
    model: nn.Module = nn.Sequential(*layers)
    if method is not None:
        model = lc.convert(model, lc.plan(model, method, exclude="0", stages={"*": 0}))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        for index in (1, 4, 7):
            model[index].weight.copy_(torch.tensor(GAMMAS))
            model[index].bias.normal_(0, 0.1)
    return model.eval()


def check(model: nn.Module, dtype: torch.dtype, largest: float = 1.0) -> nn.Module:
    """Optimize `model` in `dtype`: as near to what it gives in float64 as itself in that dtype, and to a few roundings."""
    x = largest * torch.randn(2, 3 if len(model) > 2 else WIDTH, 8, 8)
    model = copy.deepcopy(model)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        fast = optimize(model.to(dtype), x.to(dtype), measured=False, cache=None)
        found, own = fast(x.to(dtype)).double(), model(x.to(dtype)).double()
    assert found.isfinite().all()
    allowed = 8 * float((own - exact).abs().max()) + 8 * torch.finfo(dtype).eps * float(exact.abs().max())
    assert float((found - exact).abs().max()) <= allowed
    return fast


METHODS = {
    "dense": None,
    "split": lc.Split(),
    "split, chained": lc.Split(representative="chain"),
    "split, without gate": lc.Split(fusion=False),
    "tied_block": lc.TiedBlock(2),
    "shared_basis": lc.SharedBasis(4, norm=True),
    "ghost": lc.Ghost(),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_scales_next_to_nothing(method: str, dtype: torch.dtype) -> None:
    fast = check(lean(METHODS[method]), dtype)
    if dtype != torch.float16:
        assert not any(type(module) is nn.BatchNorm2d for module in fast.modules()) or method == "ghost"


@pytest.mark.parametrize("gamma", GAMMAS[:-2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_whole_norm_of_one_scale_behind_a_gate(gamma: float, dtype: torch.dtype) -> None:
    model = lean(lc.Split())
    with torch.no_grad():
        model[4].weight.fill_(gamma)
        model[4].bias.zero_()
    check(model, dtype)


@pytest.mark.parametrize("method", METHODS)
def test_a_norm_whose_scale_float16_cannot_hold_stays_a_norm(method: str) -> None:
    """300 / sqrt(1e-14 + eps) is 9.5e4, and float16 ends at 65504; the maps are within it, for the inputs are small."""
    model = lean(METHODS[method])[3:5]
    with torch.no_grad():
        for name, parameter in model[0].named_parameters():
            parameter.mul_(0 if name.endswith("bias") else 10)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.zero_()
        model[1].weight.fill_(300.0)
        model[1].running_var.fill_(1e-14)
    fast = check(model, torch.float16, 1e-5)
    assert any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert method == "dense" or [choice.form for choice in forms_chosen(fast)] == ["as it is"]
    check(model, torch.float32, 1e-5)
