"""Split convolution's gate and sum: both branches are read twice, and nothing is written in between."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from leanconv.inference.kernels import maps


@triton.jit
def _kernel(
    a_ptr, b_ptr, back_ptr, y_ptr, channels, area, image_stride, pixel_stride, channel_stride,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    base = tl.program_id(0).to(tl.int64) * image_stride + channel[None, :] * channel_stride
    total = tl.zeros((CHANNELS,), dtype=tl.float32)
    for start in range(0, area, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        at, mask = base + pixel[:, None] * pixel_stride, (pixel[:, None] < area) & inside[None, :]
        a = tl.load(a_ptr + at, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(a + tl.load(b_ptr + at, mask=mask, other=0.0).to(tl.float32), axis=0)
    back = tl.load(back_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    gate = 1.0 / (1.0 + tl.exp(-total / area * back))
    for start in range(0, area, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        at, mask = base + pixel[:, None] * pixel_stride, (pixel[:, None] < area) & inside[None, :]
        a = tl.load(a_ptr + at, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(b_ptr + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(y_ptr + at, (b - (a + b) * gate[None, :]).to(y_ptr.dtype.element_ty), mask=mask)


@torch.library.custom_op(
    "leanconv::gated_difference", mutates_args=(), schema="(Tensor a, Tensor b, Tensor back) -> Tensor"
)
def gated_difference(a: Tensor, b: Tensor, back: Tensor) -> Tensor:
    """b - (a + b) * sigmoid(back * mean(a + b)), the mean over H and W, accumulated in float32.

    With a the negated representative branch this is SPConv's fusion: see `leanconv.inference.forms.split.FoldedSplit`.

    Shape:
        a, b: (N, C, H, W) -> the same, in the layout of a; back: C values.
    """
    last = maps.channels_last(a)
    y = maps.empty(a, a.shape, last)
    n, c, h, w = a.shape
    channels = maps.block(c, 32)
    if y.numel():
        _kernel[(n, triton.cdiv(c, channels))](
            maps.laid_out(a, last), maps.laid_out(b, last), back.contiguous(), y, c, h * w, *maps.strides(a.shape, last),
            PIXELS=maps.block(h * w, 128), CHANNELS=channels,
        )  # fmt: skip
    return y


@gated_difference.register_fake
def _(a: Tensor, b: Tensor, back: Tensor) -> Tensor:
    return maps.empty(a, a.shape, maps.channels_last(a))
