"""The fusion of two branches by a gate without parameters, with a backward pass as cheap as the forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.jit import is_tracing  # type: ignore[attr-defined]


class _GatedSum(torch.autograd.Function):
    """`gated_sum` for training, on maps (N, C, H, W), or on rows (N, R, k C) of k pixels of a channels_last map.

    Autograd's own backward pass of the mean adds a broadcast gradient to a full gradient. On CPU in channels_last, this
    addition took a third of a training step. This backward pass is, with s = sum over H, W of dy * (a - b):

        da = gate * dy + gate * (1 - gate) * s / (H W);   db = dy - da

    The difference and the gate are outputs too, because torch requires this for second derivatives. Their gradients are None
    except in second derivatives.

    Args:
        channels: C of rows; 0 for maps.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
        difference = a - b
        gate = _means(difference, channels).sigmoid()
        return _scaled_sum(difference, gate, b, channels), difference, gate

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, difference, gate = output
        ctx.channels = inputs[2]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(difference, gate)
        ctx.save_for_forward(difference, gate)

    @staticmethod
    def backward(
        ctx: Any, dy: Tensor | None, d_difference: Tensor | None, d_gate: Tensor | None
    ) -> tuple[Tensor, Tensor, None]:
        difference, gate = ctx.saved_tensors
        dy = torch.zeros_like(difference) if dy is None else dy
        mean = _means(dy * difference, ctx.channels)
        if d_gate is not None:
            mean = mean + d_gate * (gate.numel() / difference.numel())
        da = _scaled_sum(dy, gate, _spread(gate * (1 - gate) * mean, dy, ctx.channels), ctx.channels)
        if d_difference is not None:
            da = da + d_difference
        return da, dy - da, None

    @staticmethod
    def jvp(ctx: Any, ta: Tensor | None, tb: Tensor | None, _: None) -> tuple[Tensor, Tensor, Tensor]:
        difference, gate = ctx.saved_tensors
        ta = torch.zeros_like(difference) if ta is None else ta
        tb = torch.zeros_like(difference) if tb is None else tb
        t_difference = ta - tb
        t_gate = gate * (1 - gate) * _means(t_difference, ctx.channels)
        ty = _scaled_sum(t_difference, gate, _scaled_sum(difference, t_gate, tb, ctx.channels), ctx.channels)
        return ty, t_difference, t_gate


def _means(x: Tensor, channels: int) -> Tensor:
    """The means over the map: (N, C, 1, 1) for maps, (N, C) for rows.

    For rows, the mean is a product with ones, because torch's own mean casts bfloat16 maps to float32.
    """
    if not channels:
        return x.mean((-2, -1), keepdim=True)
    n, r, width = x.shape
    ones = x.new_full((1, 1, 1), channels / (r * width)).expand(n, 1, r)
    return torch.bmm(ones, x).view(n, width // channels, channels).sum(1)


def _scaled_sum(x: Tensor, factor: Tensor, plus: Tensor, channels: int) -> Tensor:
    """factor * x + plus, with one factor for each channel.

    On rows, addcmul runs over whole vectors (bfloat16, 128 maps of 16x32x32 on two AVX-512 cores: 0.2 ms, not 2.0 ms). On
    maps, this function computes a product and a sum, because addcmul and lerp process bfloat16 maps element by element.
    """
    if channels:
        return torch.addcmul(plus, x, _repeated(factor, x))
    return x * factor + plus


def _spread(values: Tensor, x: Tensor, channels: int) -> Tensor:
    """One number for each channel, in the shape that `_scaled_sum` adds to `x` fastest."""
    if channels:
        return _repeated(values, x)
    # expanded on CPU: a sum with a broadcast is slow in bfloat16
    return values.expand_as(x).contiguous() if x.device.type == "cpu" else values


def _repeated(values: Tensor, rows: Tensor) -> Tensor:
    """(N, C) as (N, 1, k C)."""
    return values.repeat(1, rows.shape[2] // values.shape[1])[:, None]


def _pixels_a_row(channels: int, pixels: int) -> int:
    """The number of pixels in a row: the largest power of two that divides the map, with at most 512 numbers in a row."""
    k = 1
    while 2 * k * channels <= 512 and pixels % (2 * k) == 0:
        k *= 2
    return k


def _as_rows(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    k = _pixels_a_row(c, h * w)
    return x.permute(0, 2, 3, 1).reshape(n, h * w // k, k * c)


def _channels_last(x: Tensor) -> bool:
    """Whether `x` is channels_last by its strides; a tensor inside `torch.func.vmap` has strides too."""
    if x.ndim != 4 or x.device.type != "cpu":
        return False
    n, c, h, w = x.shape
    return n * h * w > 0 and x.stride() == (h * w * c, 1, w * c, c)


def gated_sum(a: Tensor, b: Tensor) -> Tensor:
    """gate * a + (1 - gate) * b, gate = softmax over the two of their means = sigmoid(mean(a) - mean(b)).

    Shape:
        a, b: (N, C, H, W) or (C, H, W) -> the same shape; the means are over H and W.

    Source: "Split to Be Slim", section 3.4, eqs. 4-6.

    >>> gated_sum(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).flatten()
    tensor([1., 1., 1., 1.])
    """
    if torch.compiler.is_compiling() or is_tracing():  # a compiler or a trace derives its own backward pass
        y: Tensor = _GatedSum.forward(a, b, 0)[0]
    elif not (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)):
        difference = a - b
        y = difference.mul_(_means(difference, 0).sigmoid()).add_(b)  # in place: one new map
    elif _channels_last(a) and _channels_last(b):
        n, c, h, w = a.shape
        y = _GatedSum.apply(_as_rows(a), _as_rows(b), c)[0].view(n, h, w, c).permute(0, 3, 1, 2)
    else:
        y = _GatedSum.apply(a, b, 0)[0]
    return y
