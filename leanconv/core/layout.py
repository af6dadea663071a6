"""The memory layout of feature maps and weights: tensors of four dimensions in channels_last, others unchanged."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

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
    """`tensor` in `layout` if it has four dimensions, otherwise `tensor` itself; a lazy tensor is unchanged."""
    if torch.nn.parameter.is_lazy(tensor) or tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=layout)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether `tensor` has four dimensions and is in channels_last."""
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
