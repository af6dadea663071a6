from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.penalty import PenaltyTerm, gram_error


class Owner(nn.Module):
    def __init__(self, kind, weight, total, entries):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(total)))
        self.term = (kind, weight, entries)

    def penalty_terms(self):
        kind, weight, entries = self.term
        return [PenaltyTerm(kind, weight, self.scale, entries)]


def test_is_one_mean_for_each_kind():
    model = nn.Sequential(Owner("a", 10.0, 3, 4), Owner("b", 2.0, 5, 10), Owner("a", 10.0, 5, 12))
    value = lc.penalty(model)
    assert value.item() == pytest.approx(10 * (3 + 5) / (4 + 12) + 2 * 5 / 10)
    value.backward()
    assert model[0].scale.grad.item() == pytest.approx(10 / 16)


def test_is_zero_without_owners():
    assert lc.penalty(nn.Linear(1, 1)).item() == 0 and not lc.penalty(nn.ReLU()).requires_grad


def test_owners_with_another_weight_are_another_kind():
    model = nn.Sequential(Owner("a", 1.0, 3, 4), Owner("a", 2.0, 5, 10))
    assert lc.penalty(model).item() == pytest.approx(1 * 3 / 4 + 2 * 5 / 10)


def test_gram_error_is_exact_under_autocast():
    rows = torch.eye(8, 40) * (1 + 2**-10)
    exact = 8 * ((1 + 2**-10) ** 2 - 1) ** 2
    with torch.autocast("cpu", torch.bfloat16):
        assert gram_error(rows).item() == pytest.approx(exact, rel=1e-3)


def test_shared_basis_penalty_is_the_mean_over_all_gram_entries():
    """The release's loss: 10 * sum_g ||B B^T - I||^2 / sum_g R_g^2, bases of a double basis stacked."""
    torch.manual_seed(0)
    model = lc.create_model("resnet20")
    lean = lc.convert(model, lc.plan(model, lc.SharedBasis(shared=4, bases=2), exclude=["conv1", "layer?.0.*"]))
    banks = [m.weight for m in lean.modules() if hasattr(m, "penalty_terms") and m.penalty_terms()]
    assert [len(bank) for bank in banks] == [8, 16, 32]
    assert lc.penalty(lean).item() == pytest.approx(0, abs=1e-8)  # bases start orthogonal
    with torch.no_grad():
        for bank in banks:
            bank.add_(0.05 * torch.randn_like(bank))
    total = sum((b.flatten(1) @ b.flatten(1).T - torch.eye(len(b))).square().sum() for b in banks)
    assert lc.penalty(lean).item() == pytest.approx(10 * total.item() / (64 + 256 + 1024), rel=1e-5)
