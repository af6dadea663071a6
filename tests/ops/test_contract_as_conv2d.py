"""The contract of every operator in the place of an nn.Conv2d: the inputs it takes and the attributes that code reads."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import leanconv as lc
from leanconv.core.errors import LeanconvError
from leanconv.testing import Check
from tests.ops.contract import SPECS, image, on_checks


@on_checks("as_conv2d")
def test_in_the_place_of_conv2d(check: Check):
    check()


class Standardised(nn.Module):
    """A weight that is computed with by the layer's owner, as weight standardisation does."""

    def __init__(self, *ops: nn.Module) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)

    def forward(self, x):
        op = self.ops[-1]
        weight = (op.weight - op.weight.mean((1, 2, 3), keepdim=True)) * 2 + 0.5 * op.weight
        return F.conv2d(x, torch.cat([weight, op.weight]), None, op.stride, 1)


def seen_as_dense() -> list[nn.ModuleList]:
    """Operators that have no parameter of that name, or one with a blend behind it."""
    spec = SPECS["3x3 square"]
    methods = [
        lc.SharedBasis(shared=4, unique=2),
        lc.SharedBasis(shared=0, unique=3, norm=False),
        lc.SoftShared(),
        lc.FilterSummary(),
        lc.DepthShared(),
        lc.DepthShared(blend=True),
    ]
    return [nn.ModuleList(method.build([spec, spec])).double().eval() for method in methods]


@pytest.mark.parametrize("index", range(6))
def test_what_is_computed_with_the_weight_of_a_linear_operator_is_that_of_its_dense_weight(index):
    torch.manual_seed(0)
    ops = seen_as_dense()[index]
    op, dense = ops[-1], ops[-1].to_conv()
    for module in (op, dense):
        module.requires_grad_()
    x = image(SPECS["3x3 square"])
    ours, plain = Standardised(*ops), Standardised(dense)
    wanted = plain(x)
    torch._dynamo.reset()
    runs = [ours, fx.symbolic_trace(ours), torch.compile(ours, backend="aot_eager", fullgraph=True)]
    for run in (*runs, torch.export.export(ours, (x,)).module()):
        torch.testing.assert_close(run(x), wanted)
    wanted.square().sum().backward()
    ours.zero_grad()
    ours(x).square().sum().backward()
    parameters = list(lc.core.sharing.parameters_in_use([op]))
    found = [p.grad for p in parameters]
    through = torch.autograd.grad(op.weight_dense(), parameters, dense.weight.grad, materialize_grads=True)
    for got, expected in zip(found, through, strict=True):
        torch.testing.assert_close(torch.zeros_like(expected) if got is None else got, expected)


def test_a_traced_weight_follows_its_parameters():
    op = lc.FilterSummaryConv2d(8, 8, 3, padding=1)
    traced = fx.symbolic_trace(Standardised(op))
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        op.summary.mul_(2)
    torch.testing.assert_close(traced(x), Standardised(op)(x))


@pytest.mark.parametrize("op", [lc.SplitConv2d(8, 8, 3, padding=1), lc.GhostConv2d(8, 8, 3, padding=1)])
def test_the_weight_of_an_operator_that_is_no_convolution_is_not_computed_with(op):
    with pytest.raises(LeanconvError, match="equals no dense convolution"):
        Standardised(op)(torch.randn(2, 8, 4, 4))
    for compute in (lambda w: w.sum(), lambda w: w[0], lambda w: 2 * w, lambda w: F.conv2d(torch.zeros(1, 8, 4, 4), w)):
        with pytest.raises(LeanconvError, match="equals no dense convolution"):
            compute(op.weight)
    x = torch.zeros(1, dtype=torch.float64)
    assert x.to(op.weight).dtype == x.type_as(op.weight).dtype == torch.float32
    assert op.weight.shape == (8, 8, 3, 3) and op.weight.size(1) == len(op.weight) == 8 and op.weight.numel() == 576


def test_a_basis_with_a_norm_has_no_weight_in_training():
    op = lc.SharedBasisConv2d(8, 8, 3, padding=1)
    assert op.weight.dtype == torch.float32
    with pytest.raises(LeanconvError, match="eval"):
        Standardised(op)(torch.randn(2, 8, 4, 4))


@pytest.mark.parametrize(
    "write",
    [
        nn.init.zeros_,
        nn.init.kaiming_uniform_,
        nn.init.xavier_normal_,
        lambda w: w.data.zero_(),
        lambda w: setattr(w, "data", torch.zeros(8, 8, 3, 3)),
        lambda w: setattr(w, "requires_grad", False),
        lambda w: setattr(w, "grad", None),
        lambda w: w.mul_(2),
        lambda w: w.__setitem__(0, 1.0),
        torch.relu_,
    ],
)
def test_a_computed_weight_is_not_written_to(write):
    """It would be lost without a word."""
    for op in (lc.SplitConv2d(8, 8, 3, padding=1), lc.FilterSummaryConv2d(8, 8, 3)):
        before = copy.deepcopy(op.state_dict())
        with torch.no_grad(), pytest.raises(LeanconvError, match="would change"):
            write(op.weight)
        assert all(torch.equal(a, b) for a, b in zip(before.values(), op.state_dict().values(), strict=True))
