"""The kernel of split convolution's gate and sum: it reads both branches twice, and writes nothing in between."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from leanconv.ops.kernels import maps


@triton.jit
def _kernel(
    a_ptr, b_ptr, scale_ptr, shift_ptr, y_ptr, channels, area, image_stride, pixel_stride, channel_stride,
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
    gate = 1.0 / (1.0 + tl.exp(total / area))
    scale = tl.load(scale_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, area, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        at, mask = base + pixel[:, None] * pixel_stride, (pixel[:, None] < area) & inside[None, :]
        a = tl.load(a_ptr + at, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(b_ptr + at, mask=mask, other=0.0).to(tl.float32)
        y = (b - (a + b) * gate[None, :]) * scale[None, :] + shift[None, :]
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)


@torch.library.custom_op(
    "leanconv::gated_difference",
    mutates_args=(),
    schema="(Tensor a, Tensor b, Tensor? scale, Tensor? shift) -> Tensor",
)
def gated_difference(a: Tensor, b: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """scale * (b - (a + b) * sigmoid(-mean(a + b))) + shift, the mean over H and W, accumulated in float32.

    With a the negated representative branch this is SPConv's fusion: see `leanconv.ops.forms.split.FoldedSplit`.

    Shape:
        a, b: (N, C, H, W) -> the same, in the layout of a; scale, shift: C values, both or neither.
    """
    last = maps.channels_last(a)
    y = maps.empty(a, a.shape, last)
    n, c, h, w = a.shape
    channels = maps.block(c, 32)
    scale = a.new_ones(c) if scale is None else scale.contiguous()
    shift = a.new_zeros(c) if shift is None else shift.contiguous()
    if y.numel():
        _kernel[(n, triton.cdiv(c, channels))](
            maps.laid_out(a, last), maps.laid_out(b, last), scale, shift, y, c, h * w,
            *maps.strides(a.shape, last), PIXELS=maps.block(h * w, 128), CHANNELS=channels,
        )  # fmt: skip
    return y


@gated_difference.register_fake
def _(a: Tensor, b: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    return maps.empty(a, a.shape, maps.channels_last(a))
