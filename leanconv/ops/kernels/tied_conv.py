"""The kernel of tied block convolution: one implicit product that reads the thin bank and never repeats it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from leanconv.ops.kernels import maps


@triton.jit
def _kernel(
    x_ptr, weight_ptr, scale_ptr, shift_ptr, y_ptr, pixels, inputs, outputs, h, w, out_h, out_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    x_image, x_pixel, x_channel, y_image, y_pixel, y_channel,
    KH: tl.constexpr, KW: tl.constexpr, PIXELS: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of pixels and of one block's outputs. `inputs` and `outputs` are those of a block; weight: (KH, KW, i, o)."""
    tiles = tl.cdiv(outputs, OUTPUTS)
    which = tl.program_id(1) // tiles
    output = tl.program_id(1) % tiles * OUTPUTS + tl.arange(0, OUTPUTS)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    total = tl.zeros((PIXELS, OUTPUTS), dtype=tl.float32)
    total = maps.products(
        x_ptr, weight_ptr, pixel, pixels, which * inputs, inputs, output, outputs, h, w, out_h, out_w,
        stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, x_image, x_pixel, x_channel, total,
        KH, KW, INPUTS, PRECISION,
    )  # fmt: skip
    channel = which * outputs + output
    scale = tl.load(scale_ptr + channel, mask=output < outputs, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + channel, mask=output < outputs, other=0.0).to(tl.float32)
    value = total * scale[None, :] + shift[None, :]
    area = out_h * out_w
    at = (pixel // area).to(tl.int64) * y_image + pixel % area * y_pixel
    tl.store(
        y_ptr + at[:, None] + channel[None, :] * y_channel,
        value.to(y_ptr.dtype.element_ty),
        mask=(pixel < pixels)[:, None] & (output < outputs)[None, :],
    )


@torch.library.custom_op(
    "leanconv::tied_conv",
    mutates_args=(),
    schema="(Tensor x, Tensor bank, Tensor scale, Tensor shift, int blocks, int[] stride, int[] padding, int[] dilation) "
    "-> Tensor",
)
def tied_conv(
    x: Tensor, bank: Tensor, scale: Tensor, shift: Tensor, blocks: int,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    """scale * tied_block_convolution(x) + shift, accumulated in float32.

    Args:
        bank: (kh, kw, I / B, O / B), contiguous.
        scale, shift: O values: a bias and the norm behind the convolution.
        blocks: B.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W') in the layout of x.

    Source: Wang & Yu 2021, eq. 3.
    """
    last = maps.channels_last(x)
    y = _output(x, bank, blocks, stride, padding, dilation)
    n, _, h, w = x.shape
    kh, kw, inputs, outputs = bank.shape
    out_h, out_w = y.shape[2:]
    pixels = n * out_h * out_w
    tile, width = maps.block(pixels, 64), maps.block(outputs, 64)
    if y.numel():
        _kernel[(triton.cdiv(pixels, tile), blocks * triton.cdiv(outputs, width))](
            maps.laid_out(x, last), bank, scale, shift, y, pixels, inputs, outputs, h, w, out_h, out_w,
            *stride, *padding, *dilation, *maps.strides(x.shape, last), *maps.strides(y.shape, last),
            KH=kh, KW=kw, PIXELS=tile, INPUTS=maps.block(inputs, 32), OUTPUTS=width, PRECISION=maps.precision(x),
        )  # fmt: skip
    return y


@tied_conv.register_fake
def _(
    x: Tensor, bank: Tensor, scale: Tensor, shift: Tensor, blocks: int,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    return _output(x, bank, blocks, stride, padding, dilation)


def _output(
    x: Tensor, bank: Tensor, blocks: int, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    sides = maps.output_sides(x, bank.shape[:2], stride, padding, dilation)
    return maps.empty(x, (x.shape[0], bank.shape[3] * blocks, *sides), maps.channels_last(x))
