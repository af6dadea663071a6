"""The memory layout of feature maps and weights: tensors of four dimensions in channels_last, others unchanged."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.meta import dry_run

Module = TypeVar("Module", bound=nn.Module)


def to_channels_last(module: Module) -> Module:
    """Put the parameters and buffers of four dimensions in channels_last, and return `module` itself.

    Tensors of other dimensions are unchanged, such as the kernels of a Conv3d, the anchors of a YOLO head, and the
    constants of a Swin. ``module.to(memory_format=torch.channels_last)`` raises an error for a tensor of five dimensions.

    >>> is_channels_last(to_channels_last(nn.Conv2d(3, 8, 3)).weight)
    True
    """
    return to_layout(module, torch.channels_last)


def to_layout(module: Module, layout: torch.memory_format) -> Module:
    """Put the parameters and buffers of four dimensions in `layout`, and return `module` itself."""
    module._apply(lambda tensor: with_layout(tensor, layout))
    return module


def with_layout(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    """`tensor` in `layout` if it has four dimensions, otherwise `tensor` itself; a lazy tensor is unchanged.

    ``torch.preserve_format`` leaves every tensor as it is.
    """
    if torch.nn.parameter.is_lazy(tensor) or tensor.dim() != 4 or layout == torch.preserve_format:
        return tensor
    if layout == torch.contiguous_format and tensor.stride() != torch.empty(tensor.shape, device="meta").stride():
        # maps of one channel are in both layouts, and convolutions look at their strides
        return tensor.clone(memory_format=layout)
    return tensor.contiguous(memory_format=layout)


def layout_of(module: nn.Module) -> torch.memory_format:
    """The layout of the module's weights: channels_last if that of one weight can be nothing else.

    >>> layout_of(nn.Conv2d(3, 8, 3)), layout_of(to_channels_last(nn.Conv2d(3, 8, 3)))
    (torch.contiguous_format, torch.channels_last)
    """
    last = any(is_channels_last(tensor) and not tensor.is_contiguous() for tensor in module.parameters())
    return torch.channels_last if last else torch.contiguous_format


def best_layout(module: nn.Module, input_size: tuple[int, int, int]) -> torch.memory_format:
    """channels_last, which is faster nearly everywhere, or the ordinary layout for a network that runs only in this one.

    A network that calls `view` to flatten a feature map, in place of `flatten` or `reshape`, does not run in channels_last.

    Args:
        module: the network; it is unchanged.
        input_size: (channels, height, width).
    """

    def run(layout: torch.memory_format, twin: nn.Module, images: Tensor) -> None:
        if images.is_meta:
            raise RuntimeError("a convolution on the meta device returns the ordinary layout")
        to_layout(twin, layout)(with_layout(images, layout))

    def runs(layout: torch.memory_format) -> bool:
        try:
            dry_run(module, input_size, partial(run, layout))
        except SettingError:
            return False
        return True

    alone = not runs(torch.channels_last) and runs(torch.contiguous_format)
    return torch.contiguous_format if alone else torch.channels_last


def settled(module: nn.Module, example: Tensor) -> Tensor:
    """`example` in the layout in which `module` runs on it, into which `module` is put too: see `best_layout`.

    >>> is_channels_last(settled(nn.Conv2d(3, 8, 3), torch.zeros(2, 3, 8, 8)))
    True
    """
    images = with_layout(example, torch.channels_last)
    with torch.no_grad(), contextlib.suppress(Exception):  # the network's own code may raise anything
        to_channels_last(module)(images)
        return images
    to_layout(module, torch.contiguous_format)
    return with_layout(example, torch.contiguous_format)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether `tensor` has four dimensions and is in channels_last."""
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
