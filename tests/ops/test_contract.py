"""The contract that every method fulfils on every convolution it accepts, and what the contract itself sees."""

from __future__ import annotations

import pytest
import torch

import leanconv as lc
from leanconv.testing import Check
from tests.ops.contract import ACCEPTED, CASES, OWN, SPECS, Case, image, lean_network, network, on_checks


def test_every_method_is_checked():
    assert {type(case.method) for case in CASES} == {*OWN}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method.label())
def test_accepts_what_it_must(case: Case):
    """Nothing passes by rejecting."""
    accepted = {name for name, spec in SPECS.items() if case.method.reject(spec) is None}
    assert accepted == case.accepts and len(accepted) >= (
        6 if isinstance(case.method, lc.PartialConv) else len(SPECS) / 2
    )


@on_checks("computing", "fitting", "keeping")
def test_contract(check: Check):
    check()


LIMITS = {
    "all components, no norm": lc.SharedBasis(shared=0, unique=16, norm=False),
    "a template for each layer": lc.SoftShared(templates=3),
    "more templates than layers": lc.SoftShared(templates=4),
}


@pytest.mark.filterwarnings("ignore:shared_basis costs more MACs")  # the limit is where nothing is saved
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", ["3x3", "bias", "stride 2", "dilation 2", "same, even kernel"])
def test_degenerate_limit_of_a_group_is_conv2d(limit: str, name: str):
    spec, method = SPECS[name], LIMITS[limit]
    model, x = network(spec), image(spec)
    lean = lc.convert(model, lc.plan(model, method, input_size=(8, 8, 8)), init="fit")
    for ours, dense in zip(lean(x), model(x), strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-8, atol=1e-8)


SOME = ("3x3", "stride 2", "stride (1, 2)", "same, circular", "groups", "uneven")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "name"), [(m, n) for m, n in ACCEPTED if n in SOME], ids=lambda v: v if isinstance(v, str) else v.label()
)
def test_compiles_with_inductor(method: lc.Method, name: str):
    spec = SPECS[name]
    lean = lean_network(method, spec, dtype=torch.float32)
    x = image(spec, dtype=torch.float32)
    torch._dynamo.reset()
    for a, b in zip(torch.compile(lean)(x), lean(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
