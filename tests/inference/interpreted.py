"""The Triton kernels in Triton's interpreter; run by test_kernels.py in a process of its own, with TRITON_INTERPRET=1."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.affine import Affine
from leanconv.inference.forms import forms_of
from leanconv.ops.forms.kernels import takes
from tests.ops.contract import ACCEPTED, SPECS, image, unsettle_

METHODS = (lc.TiedBlock, lc.SharedBasis, lc.Split)
CASES = [
    (method, name) for method, name in ACCEPTED if isinstance(method, METHODS) and takes(SPECS[name], torch.empty(0))
]
NAMES = ("kernel", "branches, kernel", "merged, kernel")


@pytest.mark.parametrize(("method", "name"), CASES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_a_kernel_is_equal_to_its_operator(method, name, layout):
    spec = SPECS[name]
    op, norm = method.build([spec])[0].eval(), nn.BatchNorm2d(spec.out_channels).eval()
    unsettle_(op)
    unsettle_(norm)
    x = image(spec, (9, 7), n=2).float().contiguous(memory_format=layout)
    with torch.no_grad():
        expected = norm(op.float()(x))
        forms = forms_of(op, Affine.of(norm))
        kernels = [form for form in forms if form in NAMES]
        if isinstance(method, lc.TiedBlock | lc.SharedBasis):
            assert kernels == ["kernel"]
        for form in kernels:
            found = forms[form]()(x)
            assert found.is_contiguous(memory_format=layout)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


def test_split_offers_its_kernels_where_there_is_a_gate():
    assert {"branches, kernel", "merged, kernel"} < set(forms_of(lc.SplitConv2d(8, 8, 3, padding=1).eval()))
    assert not set(NAMES) & set(forms_of(lc.SplitConv2d(8, 8, 3, padding=1, fusion=False).eval()))


@pytest.mark.parametrize(
    ("op", "form"),
    [
        (lc.TiedBlockConv2d(80, 144, 3, padding=1, blocks=2), "kernel"),  # more than one tile of inputs and outputs
        (lc.SharedBasisConv2d(40, 150, 3, padding=1, shared=20, unique=3), "kernel"),
        (lc.SplitConv2d(40, 72, 3, padding=1), "branches, kernel"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value,
)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16]
)  # the interpreter's tl.dot takes bfloat16 for integers
def test_more_than_one_tile(op, form, dtype):
    op = op.eval()
    x = torch.randn(2, op.in_channels, 13, 11).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = op(x)
        found = forms_of(op)[form]().to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    bound = 2e-5 if dtype == torch.float32 else 0.01 * float(expected.abs().max())
    torch.testing.assert_close(found.float(), expected, atol=bound, rtol=bound)


def test_an_empty_batch():
    op = lc.TiedBlockConv2d(8, 8, 3, padding=1).eval()
    assert forms_of(op)["kernel"]()(torch.empty(0, 8, 5, 5)).shape == (0, 8, 5, 5)


def test_shapes_are_known_without_running():
    """What torch.compile and torch.export ask."""
    for op in (
        lc.TiedBlockConv2d(8, 16, 3, 2, 1),
        lc.SharedBasisConv2d(8, 16, 3, 2, 1),
        lc.SplitConv2d(8, 16, 3, 2, 1),
    ):
        forms = forms_of(op.eval())
        form = forms[next(name for name in NAMES if name in forms)]()
        x = torch.randn(2, 8, 9, 7)
        program = torch.export.export(form, (x,))
        torch.testing.assert_close(program.module()(x), op(x), atol=2e-5, rtol=2e-5)
