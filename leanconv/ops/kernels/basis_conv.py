"""The kernel of filter bases: the maps of the components stay in registers until the coefficients are applied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from leanconv.ops.kernels import maps


@triton.jit
def _kernel(
    x_ptr, components_ptr, inner_ptr, coefficients_ptr, shift_ptr, y_ptr, pixels, inputs, rank, outputs, h, w, out_h, out_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    x_image, x_pixel, x_channel, y_image, y_pixel, y_channel,
    KH: tl.constexpr, KW: tl.constexpr, PIXELS: tl.constexpr, INPUTS: tl.constexpr, RANK: tl.constexpr,
    OUTPUTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of pixels, all components, all outputs. components: (KH, KW, i, rank); coefficients: (rank, o)."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    r = tl.arange(0, RANK)
    total = tl.zeros((PIXELS, RANK), dtype=tl.float32)
    total = maps.products(
        x_ptr, components_ptr, pixel, pixels, 0, inputs, r, rank, h, w, out_h, out_w,
        stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, x_image, x_pixel, x_channel, total,
        KH, KW, INPUTS, PRECISION,
    )  # fmt: skip
    inner = tl.load(inner_ptr + r, mask=r < rank, other=0.0).to(tl.float32)
    mixed = (total + inner[None, :]).to(x_ptr.dtype.element_ty)
    area = out_h * out_w
    at = (pixel // area).to(tl.int64) * y_image + pixel % area * y_pixel
    for start in range(0, outputs, OUTPUTS):
        o = start + tl.arange(0, OUTPUTS)
        coefficients = tl.load(
            coefficients_ptr + r[:, None] * outputs + o[None, :],
            mask=(r[:, None] < rank) & (o[None, :] < outputs),
            other=0.0,
        )
        shift = tl.load(shift_ptr + o, mask=o < outputs, other=0.0).to(tl.float32)
        value = tl.dot(mixed, coefficients, input_precision=PRECISION) + shift[None, :]
        tl.store(
            y_ptr + at[:, None] + o[None, :] * y_channel,
            value.to(y_ptr.dtype.element_ty),
            mask=(pixel < pixels)[:, None] & (o < outputs)[None, :],
        )


@torch.library.custom_op(
    "leanconv::basis_conv",
    mutates_args=(),
    schema="(Tensor x, Tensor components, Tensor inner, Tensor coefficients, Tensor shift, int[] stride, int[] padding, "
    "int[] dilation) -> Tensor",
)
def basis_conv(
    x: Tensor, components: Tensor, inner: Tensor, coefficients: Tensor, shift: Tensor,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    """coefficients applied to (convolution of x with components + inner), plus shift; accumulated in float32.

    Args:
        components: (kh, kw, I, R), contiguous, R few enough for the registers.
        inner: R values, the norm between; coefficients: (R, O), contiguous; shift: O values.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W') in the layout of x.

    Source: "Learning Shared Filter Bases", eq. 3.
    """
    last = maps.channels_last(x)
    y = _output(x, components, coefficients, stride, padding, dilation)
    n, _, h, w = x.shape
    kh, kw, inputs, rank = components.shape
    out_h, out_w = y.shape[2:]
    pixels = n * out_h * out_w
    tile = maps.block(pixels, 32)
    if y.numel():
        _kernel[(triton.cdiv(pixels, tile),)](
            maps.laid_out(x, last), components, inner, coefficients, shift, y,
            pixels, inputs, rank, coefficients.shape[1], h, w, out_h, out_w,
            *stride, *padding, *dilation, *maps.strides(x.shape, last), *maps.strides(y.shape, last),
            KH=kh, KW=kw, PIXELS=tile, INPUTS=maps.block(inputs, 32), RANK=maps.block(rank, rank * 2),
            OUTPUTS=maps.block(coefficients.shape[1], 64), PRECISION=maps.precision(x),
        )  # fmt: skip
    return y


@basis_conv.register_fake
def _(
    x: Tensor, components: Tensor, inner: Tensor, coefficients: Tensor, shift: Tensor,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    return _output(x, components, coefficients, stride, padding, dilation)


def _output(
    x: Tensor, components: Tensor, coefficients: Tensor,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    sides = maps.output_sides(x, components.shape[:2], stride, padding, dilation)
    return maps.empty(x, (x.shape[0], coefficients.shape[1], *sides), maps.channels_last(x))
