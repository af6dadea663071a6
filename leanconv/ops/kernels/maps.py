"""Functions that all kernels share: the layout of a map in memory, and the positions that a program reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

LEAST = 16  # the smallest side that tl.dot accepts


def channels_last(x: Tensor) -> bool:
    """Whether `x` is channels_last; the kernels copy a map that is neither channels_last nor contiguous to contiguous."""
    return x.is_contiguous(memory_format=torch.channels_last)


def laid_out(x: Tensor, last: bool) -> Tensor:
    """`x` in channels_last if `last` is true, otherwise contiguous; `x` itself if it already has this layout."""
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def empty(x: Tensor, shape: tuple[int, ...], last: bool) -> Tensor:
    """A new map of this shape with the dtype and device of `x`, in channels_last if `last` is true."""
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def strides(shape: tuple[int, ...], last: bool) -> tuple[int, int, int]:
    """The numbers of elements from one image, one pixel and one channel to the next."""
    _, c, h, w = shape
    return (c * h * w, c, 1) if last else (c * h * w, 1, h * w)


def output_sides(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int]:
    """Height and width of a convolution's output; padding is (top, left), and equal on the other sides."""
    h, w = (
        (side + 2 * padding[at] - dilation[at] * (kernel[at] - 1) - 1) // stride[at] + 1
        for at, side in enumerate(x.shape[2:])
    )
    return h, w


def block(size: int, most: int) -> int:
    """A power of two for `size` values, between `LEAST` and `most`."""
    return max(LEAST, min(triton.next_power_of_2(size), most))


def precision(x: Tensor) -> str:
    """The precision of tl.dot for float32: tf32 only if torch's own convolutions use tf32."""
    return "tf32" if x.is_cuda and torch.backends.cudnn.allow_tf32 else "ieee"


@triton.jit
def window(pixels, out_h, out_w, row, column, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, h, w):
    """Image and input pixel that output pixels see at one tap of the kernel, and whether that lies inside the image."""
    rest = pixels % (out_h * out_w)
    y = rest // out_w * stride_h - pad_h + row * dilation_h
    x = rest % out_w * stride_w - pad_w + column * dilation_w
    return pixels // (out_h * out_w), y * w + x, (y >= 0) & (y < h) & (x >= 0) & (x < w)


@triton.jit
def products(
    x_ptr, weight_ptr, pixel, pixels, first, inputs, output, outputs, h, w, out_h, out_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, x_image, x_pixel, x_channel, total,
    KH: tl.constexpr, KW: tl.constexpr, INPUTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`total` (pixels, outputs) plus the convolution of input channels `first` to first + inputs; weight: (KH, KW, i, o)."""
    for row in range(KH):
        for column in range(KW):
            image, at, seen = window(
                pixel, out_h, out_w, row, column, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, h, w
            )
            base = image.to(tl.int64) * x_image + at * x_pixel
            seen = seen & (pixel < pixels)
            for start in range(0, inputs, INPUTS):
                i = start + tl.arange(0, INPUTS)
                x = tl.load(
                    x_ptr + base[:, None] + (first + i[None, :]) * x_channel,
                    mask=seen[:, None] & (i[None, :] < inputs),
                    other=0.0,
                )
                weight = tl.load(
                    weight_ptr + ((row * KW + column) * inputs + i[:, None]) * outputs + output[None, :],
                    mask=(i[:, None] < inputs) & (output[None, :] < outputs),
                    other=0.0,
                )
                total = tl.dot(x, weight, total, input_precision=PRECISION)
    return total
