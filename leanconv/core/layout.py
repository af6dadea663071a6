"""The memory layout of maps and weights: channels_last where it fits, and nothing else moved."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def to_channels_last(module: Module) -> Module:
    """`module` itself, with its parameters and buffers of four dimensions in channels_last.

    Those of other dimensions stay as they are: a Conv3d's kernels, the anchors of a YOLO head, a Swin's constants.
    ``module.to(memory_format=torch.channels_last)`` raises at the first of five dimensions.
    """
    return to_layout(module, torch.channels_last)


def to_layout(module: Module, layout: torch.memory_format) -> Module:
    """`module` itself, with its parameters and buffers of four dimensions in `layout`."""
    module._apply(lambda tensor: with_layout(tensor, layout))
    return module


def with_layout(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    """`tensor` in `layout` where it has four dimensions; else, and where it has no shape yet, itself."""
    if torch.nn.parameter.is_lazy(tensor) or tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=layout)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether `tensor` is channels_last: four dimensions, and in that order."""
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
