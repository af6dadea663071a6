"""The Triton kernels: equal in the interpreter, and absent where they cannot run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

import leanconv as lc
from leanconv.core.affine import Affine
from leanconv.ops.forms.kernels import BasisKernel, TiedKernel, takes
from tests.gates.tree import ROOT


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="this torch came without Triton")
@pytest.mark.timeout(600)
def test_in_tritons_interpreter():
    """In a process of its own: Triton decides once, when it is imported, whether it interprets."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/inference/interpreted.py"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="this torch came without Triton")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_they_compile_for_a_gpu(dtype, monkeypatch):
    """To machine code, which needs no GPU: the interpreter takes what the compiler would refuse."""
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # what it is today; unset, it warns
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from leanconv.ops.kernels import basis_conv, gated_sum, tied_conv

    tile = {"KH": 3, "KW": 3, "PIXELS": 32, "INPUTS": 32, "OUTPUTS": 64, "PRECISION": "ieee"}
    for kernel, constants in (
        (gated_sum._kernel, {"PIXELS": 128, "CHANNELS": 32}),
        (tied_conv._kernel, tile),
        (basis_conv._kernel, tile | {"RANK": 64}),
    ):
        types = {
            name: "constexpr" if name in constants else f"*{dtype}" if name.endswith("_ptr") else "i32"
            for name in kernel.arg_names
        }
        assert "cubin" in compile(ASTSource(kernel, types, constants), target=GPUTarget("cuda", 80, 32)).asm


def test_not_offered_without_a_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not takes(lc.ConvSpec(8, 8, 3), torch.empty(0))


def test_elsewhere_a_kernel_form_computes_with_torch():
    """A network optimized on a GPU runs on a CPU, and can be compared in float64."""
    norm = torch.nn.BatchNorm2d(12).double().eval()
    torch.nn.init.uniform_(norm.running_mean)
    affine, x = Affine.of(norm), torch.randn(2, 8, 9, 7).double()
    for op, form in (
        (lc.TiedBlockConv2d(8, 12, 3, 2, 1, blocks=2), TiedKernel),
        (lc.SharedBasisConv2d(8, 12, 3, 2, 1, dilation=2, shared=3), BasisKernel),
    ):
        op = op.double().eval()
        torch.testing.assert_close(form(op, affine)(x), norm(op(x)))
