"""The parameter-free fusion of two branches, with a backward pass as cheap as its forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _fuse(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(output, a - b, gate). A product and a sum: torch's lerp and addcmul take bfloat16 element by element on CPU."""
    difference = a - b
    gate = difference.mean((2, 3), keepdim=True).sigmoid()
    return difference * gate + b, difference, gate


class _GatedSum(torch.autograd.Function):
    """`gated_sum` for training.

    Autograd's own backward of the mean adds a gradient that is broadcast over the map to a whole one, which on CPU in
    channels_last took a third of a training step. Here, with s = sum over H, W of dy * (a - b):

        da = gate * dy + gate * (1 - gate) * s / (H W);   db = dy - da
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        y, difference, gate = _fuse(a, b)
        ctx.save_for_backward(difference, gate)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        difference, gate = ctx.saved_tensors
        shift = gate * (1 - gate) * (dy * difference).mean((2, 3), keepdim=True)
        da = dy * gate
        da += torch.empty_like(da).copy_(shift)  # written out first: adding a broadcast is slow in bfloat16
        return da, dy - da


def gated_sum(a: Tensor, b: Tensor) -> Tensor:
    """gate * a + (1 - gate) * b, gate = softmax over the two of their means = sigmoid(mean(a) - mean(b)).

    Shape:
        a, b: (N, C, H, W) -> the same; the means are over H and W.

    Source: "Split to Be Slim", section 3.4, eqs. 4-6.
    """
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        y: Tensor = _GatedSum.apply(a, b)
        return y
    return _fuse(a, b)[0]
