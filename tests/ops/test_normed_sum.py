"""The compiled norms and gate of split convolution against torch's own operators."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import leanconv as lc
from leanconv.core import native
from leanconv.ops import split
from leanconv.ops.gated_sum import gated_sum
from leanconv.ops.normed_sum import SOURCE, can_normed_sum, normed_sum

needs_compiler = pytest.mark.skipif(native.compiled(SOURCE) is None, reason="there is no C++ compiler")
Norms = tuple[nn.BatchNorm2d, nn.BatchNorm2d]


def norms(dtype: torch.dtype = torch.float64, channels: int = 5) -> Norms:
    torch.manual_seed(0)
    found = nn.BatchNorm2d(channels, eps=1e-3), nn.BatchNorm2d(channels, momentum=0.3)
    for norm in found:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.to(dtype)
    return found


def maps(mean: float = 0.0, dtype: torch.dtype = torch.float64, size: tuple[int, ...] = (3, 5, 6, 7)) -> list[Tensor]:
    torch.manual_seed(1)
    found = [torch.randn(size, dtype=torch.float64) + mean for _ in range(2)]
    return [x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_() for x in found]


def plain(a: Tensor, b: Tensor, norm_a: nn.Module, norm_b: nn.Module, gated: bool) -> Tensor:
    return gated_sum(norm_a(a), norm_b(b)) if gated else norm_a(a) + norm_b(b)


@needs_compiler
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(
    ("dtype", "mean", "tolerance"),
    [(torch.float64, 100.0, 1e-9), (torch.float32, 3.0, 1e-5), (torch.bfloat16, 0.0, 4e-2)],
)
@pytest.mark.parametrize("size", [(3, 5, 6, 7), (2, 19, 13, 21), (1, 5, 3, 3)])
def test_it_is_the_two_norms_and_the_gate(size, dtype, mean, tolerance, gated):
    kept = torch.float32 if dtype == torch.bfloat16 else dtype
    mine = norms(kept, size[1])
    a, b = maps(mean, dtype, size)
    theirs = [copy.deepcopy(norm).double() for norm in mine]
    exact = [x.detach().double().requires_grad_() for x in (a, b)]
    assert can_normed_sum(a, b, *mine)
    y, wanted = normed_sum(a, b, *mine, gated), plain(*exact, *theirs, gated)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    dy = torch.randn(size, dtype=torch.float64).to(dtype)  # another layout than that of the maps
    y.backward(dy)
    wanted.backward(dy.double())
    pairs = [(y, wanted), (a.grad, exact[0].grad), (b.grad, exact[1].grad)]
    for one, other in zip(mine, theirs, strict=True):
        pairs += [(p.grad, q.grad) for p, q in zip(one.parameters(), other.parameters(), strict=True)]
        pairs += zip(one.buffers(), other.buffers(), strict=True)
    for found, right in pairs:
        scale = right.double().abs().max().clamp(min=1)
        torch.testing.assert_close(found.double() / scale, right.double() / scale, rtol=0, atol=tolerance)


@needs_compiler
@pytest.mark.parametrize("gated", [True, False])
def test_second_derivatives_equal_finite_differences(gated):
    a, b = maps(size=(2, 3, 2, 2))
    one, other = norms(channels=3)

    def run(a: Tensor, b: Tensor, *values: Tensor) -> Tensor:
        del values  # the parameters of the norms, in place
        return normed_sum(a, b, one, other, gated)

    leaves = (a, b, *one.parameters(), *other.parameters())
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


@needs_compiler
def test_frozen_parts_get_no_gradient():
    (a, b), (one, other) = maps(), norms()
    one.weight.requires_grad_(False)
    b = b.detach()
    normed_sum(a, b, one, other, True).sum().backward()
    assert one.weight.grad is None and b.grad is None and a.grad is not None and other.bias.grad is not None


@needs_compiler
def test_the_number_of_threads_changes_no_bit():
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        (a, b), pair = maps(dtype=torch.float32), norms(torch.float32)
        y = normed_sum(a, b, *pair, True)
        y.square().sum().backward()
        found.append([y, a.grad, b.grad, pair[0].weight.grad])
    torch.set_num_threads(before)
    torch.testing.assert_close(*found, rtol=0, atol=0)


@needs_compiler
def test_it_steps_aside_where_other_code_must_see_the_norms():
    (a, b), pair = maps(), norms()
    assert can_normed_sum(a, b, *pair)
    assert not can_normed_sum(a.contiguous(), b, *pair)
    assert not can_normed_sum(a.half(), b.half(), *pair)
    assert not can_normed_sum(a[:1, :, :1, :1], b[:1, :, :1, :1], *pair)
    assert not can_normed_sum(a, b, pair[0], nn.SyncBatchNorm(5))
    assert not can_normed_sum(a, b, copy.deepcopy(pair[0]).eval(), pair[1])
    handle = pair[1].register_forward_hook(lambda *_: None)
    assert not can_normed_sum(a, b, *pair)
    handle.remove()
    with torch.autograd.forward_ad.dual_level():
        assert not can_normed_sum(a, b, *pair)
    with FlopCounterMode(display=False):
        assert not can_normed_sum(a, b, *pair)
    assert can_normed_sum(a, b, *pair)


@needs_compiler
@pytest.mark.parametrize("settings", [{}, {"fusion": False}, {"representative": "full"}])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_split_convolution_trains_as_in_its_plain_form(settings, stride, monkeypatch):
    torch.manual_seed(0)
    op = lc.SplitConv2d(8, 6, 3, stride, 1, **settings).double().to(memory_format=torch.channels_last)
    other = copy.deepcopy(op)
    x = torch.randn(2, 8, 9, 6, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    called = []
    monkeypatch.setattr(split, "normed_sum", lambda *given: called.append(1) or normed_sum(*given))
    y = op(x)
    monkeypatch.setattr(split, "can_normed_sum", lambda *_: False)
    wanted = other(x)
    assert len(called) == 1
    y.cos().sum().backward()
    wanted.cos().sum().backward()
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(*[[p.grad for p in module.parameters()] for module in (op, other)])
    torch.testing.assert_close(*[[*module.buffers()] for module in (op, other)])


@pytest.mark.parametrize("variable", [("CXX", "no-such-compiler"), ("LEANCONV_NATIVE", "0"), ("CXX", "false")])
def test_without_a_compiler_torch_computes(variable, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(*variable)
    native.compiled.cache_clear()
    try:
        with caplog.at_level(logging.INFO, "leanconv"):
            assert native.compiled(SOURCE) is None
            assert not can_normed_sum(*maps(), *norms())
        asked = variable[0] == "LEANCONV_NATIVE"
        assert asked or "normed_sum.cpp is not compiled" in caplog.text
        assert len(caplog.records) == (0 if asked else 1)  # once, not at each call
        assert lc.SplitConv2d(8, 6, 3, padding=1)(torch.randn(2, 8, 4, 4)).shape == (2, 6, 4, 4)
    finally:
        native.compiled.cache_clear()
