"""Two batch normalisations and the gate that fuses them, in four passes over memory in place of a dozen."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit import is_tracing  # type: ignore[attr-defined]
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from leanconv.core.layout import is_channels_last
from leanconv.core.native import compiled
from leanconv.ops.gated_sum import gated_sum

SOURCE = Path(__file__).with_suffix(".cpp")
# torch's type -> the ending of the compiled functions, and the type in which they compute
TYPES = {
    torch.float32: ("float32", torch.float32),
    torch.float64: ("float64", torch.float64),
    torch.bfloat16: ("bfloat16", torch.float32),
}


def can_normed_sum(a: Tensor, b: Tensor, norm_a: nn.Module, norm_b: nn.Module) -> bool:
    """Whether `normed_sum` takes these maps and norms: in training, on CPU in channels_last, outside transforms.

    Other code must see the norms called: hooks, `torch.compile`, traces, `torch.func` and forward mode. It is asked before
    each call, and costs microseconds.
    """
    if torch.compiler.is_compiling() or is_tracing() or is_in_torch_dispatch_mode() or _functorch():
        return False
    return (
        type(a) is Tensor
        and type(b) is Tensor
        and a.device.type == "cpu"
        and a.dtype == b.dtype
        and a.dtype in TYPES
        and is_channels_last(a)
        and is_channels_last(b)
        and a.numel() > a.shape[1]  # a norm of one value is an error, which torch raises
        and all(_ordinary(norm) for norm in (norm_a, norm_b))
        and compiled(SOURCE) is not None
    )


def _functorch() -> bool:
    """Whether a transform of torch.func or forward mode is active, which see each operation of torch."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def _ordinary(norm: nn.Module) -> bool:
    """Whether a norm is torch's own, uses the statistics of the batch, and has no hooks and no replaced weights."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.affine
        and type(norm.weight) is nn.Parameter
        and norm.weight.dtype in (torch.float32, torch.float64)
        and not (norm._forward_hooks or norm._forward_pre_hooks or norm._backward_hooks or norm._backward_pre_hooks)
    )


def normed_sum(a: Tensor, b: Tensor, norm_a: nn.BatchNorm2d, norm_b: nn.BatchNorm2d, gated: bool) -> Tensor:
    """gated_sum(norm_a(a), norm_b(b)), or the sum without the gate; updates the running statistics. See `can_normed_sum`.

    With (A, B) the factors of the norms, ga the gate and gb = 1 - ga (both 1 without a gate), HW pixels, and the moments
    of each image and channel from one pass:

        y = ga A a + gb B b + shift

    The backward pass needs the sums of dy, dy a and dy b over each image, and computes both gradients in one more pass:

        da = ga A dy + (terms that are constant over an image) + (a term that is linear in a)

    Shape:
        a, b: (N, C, H, W) -> the same.

    Source: Ioffe & Szegedy 2015, and "Split to Be Slim", section 3.4, eqs. 4-6.
    """
    y: Tensor
    y, *moments = _NormedSum.apply(
        a, b, norm_a.weight, norm_a.bias, norm_b.weight, norm_b.bias, norm_a.eps, norm_b.eps, gated
    )
    with torch.no_grad():
        count = a.numel() // a.shape[1]
        for norm, mean, var in ((norm_a, *moments[:2]), (norm_b, *moments[2:])):
            assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_((var * (count / (count - 1))).to(norm.running_var.dtype), norm.momentum)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
    return y


class _NormedSum(torch.autograd.Function):
    """`normed_sum` and the mean and variance of each norm. The second derivative is that of the plain form."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        wa: Tensor,
        ba: Tensor,
        wb: Tensor,
        bb: Tensor,
        ea: float,
        eb: float,
        gated: bool,
    ) -> tuple[Tensor, ...]:
        first, second = _Normed.of(a, wa, ba, ea), _Normed.of(b, wb, bb, eb)
        gates = _gates(first, second, gated)
        scales = first.scale * gates[0], second.scale * gates[1]
        shift = (ba - first.mean * first.scale) * gates[0] + (bb - second.mean * second.scale) * gates[1]
        y = torch.empty_like(a)
        _call("blend", a, (a, b, *_computed(a, *scales, shift), y))
        ctx.settings = ea, eb, gated
        ctx.save_for_backward(a, b, wa, ba, wb, bb)
        ctx.normed = first, second, gates
        moments = first.mean, first.var, second.mean, second.var
        ctx.mark_non_differentiable(*moments)
        ctx.set_materialize_grads(False)
        return (y, *moments)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 9
        if torch.is_grad_enabled():  # these gradients will be differentiated
            return (*_plain_gradients(ctx, dy), None, None, None)
        a, b, wa, ba, wb, bb = ctx.saved_tensors
        first, second, (ga, gb) = ctx.normed
        gated, n, c, pixels = ctx.settings[2], a.shape[0], a.shape[1], a.shape[2] * a.shape[3]
        dy = dy.to(a.dtype).contiguous(memory_format=torch.channels_last)
        sums = torch.empty(3, n, c, dtype=torch.float64)
        means = _computed(a, first.mean, second.mean)
        _call("products", a, (dy, a, b, *means, sums))
        total, by_a, by_b = sums
        through = torch.zeros_like(total)  # the gradient of the means, through the gate, at each pixel
        if gated:
            slope = first.scale * by_a - second.scale * by_b + (ba - bb) * total
            through = ga * gb * slope / pixels
        parts = []
        for norm, gate, by, sign in ((first, ga, by_a, 1), (second, gb, by_b, -1)):
            d_bias = (gate * total + sign * pixels * through).sum(0)
            d_weight = norm.inverse * (gate * by + sign * pixels * through * (norm.means - norm.mean)).sum(0)
            count = n * pixels
            constant = norm.scale * (sign * through - d_bias / count)
            linear = -norm.scale * norm.inverse * d_weight / count
            parts.append((norm.scale * gate, constant, linear, d_weight, d_bias))
        (fa, sa, ra, dwa, dba), (fb, sb, rb, dwb, dbb) = parts
        da, db = torch.empty_like(a), torch.empty_like(b)
        fa, sa, ra, fb, sb, rb = _computed(a, fa, sa, ra, fb, sb, rb)
        _call("gradients", a, (dy, a, b, fa, sa, ra, means[0], fb, sb, rb, means[1], da, db))
        return da, db, dwa.to(wa.dtype), dba.to(ba.dtype), dwb.to(wb.dtype), dbb.to(bb.dtype), None, None, None


class _Normed:
    """The moments of one map in float64: of each image (N, C), and of the batch (C)."""

    def __init__(self, means: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
        self.means, self.mean, self.var, self.bias = means, mean, var, bias
        self.inverse = (var + eps).rsqrt()
        self.scale = weight * self.inverse

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> _Normed:
        n, c, h, w = x.shape
        pivot = x[0, :, 0, 0].contiguous()  # moments around a value of the map, so that large means cost no digits
        sums = torch.empty(2, n, c, dtype=torch.float64)
        _call("moments", x, (x, pivot, sums[0], sums[1]))
        means, (mean, square) = sums[0] / (h * w), sums.sum(1) / (n * h * w)
        return cls(pivot + means, pivot + mean, (square - mean.square()).clamp_(min=0), weight, bias, eps)


def _gates(first: _Normed, second: _Normed, gated: bool) -> tuple[Tensor, Tensor]:
    """The factors of both normed maps: (N, C)."""
    if not gated:
        ones = torch.ones_like(first.means)
        return ones, ones
    a, b = (norm.scale * (norm.means - norm.mean) + norm.bias for norm in (first, second))
    return (a - b).sigmoid(), (b - a).sigmoid()


def _plain_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by autograd from torch's own operators, so that they can be differentiated."""
    tensors, (ea, eb, gated) = ctx.saved_tensors, ctx.settings
    a, b, wa, ba, wb, bb = tensors
    za = F.batch_norm(a, None, None, wa, ba, True, 0.0, ea)
    zb = F.batch_norm(b, None, None, wb, bb, True, 0.0, eb)
    y = gated_sum(za, zb) if gated else za + zb
    wanted = [tensor for tensor, needed in zip(tensors, ctx.needs_input_grad, strict=False) if needed]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad[:6])


def _computed(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """`values` in the type in which the compiled functions compute on maps like `x`."""
    kind = TYPES[x.dtype][1]
    return tuple(value.to(kind).contiguous() for value in values)


def _call(name: str, x: Tensor, tensors: tuple[Tensor, ...]) -> None:
    """Call a compiled function on the memory of `tensors` and the sizes of `x`."""
    library = compiled(SOURCE)
    assert library is not None
    n, c, h, w = x.shape
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    sizes = [ctypes.c_int64(size) for size in (n, h * w, c)]
    getattr(library, f"{name}_{TYPES[x.dtype][0]}")(*pointers, *sizes, ctypes.c_int(torch.get_num_threads()))
