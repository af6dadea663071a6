"""Strided 1x1 convolutions of few channels, which oneDNN's backward pass computes outside of its buffer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LANES = 16  # float32 values in a vector of AVX-512; with AVX2 the fault begins under 8 channels


def safe_strides(model: nn.Module) -> AbstractContextManager[Any]:
    """A context in which strided 1x1 convolutions of `model` on CPU take every s-th pixel first and have stride 1 then.

    The result is the same. oneDNN writes past its workspace in the backward pass of such a convolution in float32, in
    channels_last, with fewer input channels than a vector has lanes: a crash, a hang or wrong gradients. Networks without
    such a weight run as they are.

    Source: issue 6035 of oneDNN; reproduced here with AVX2 (4 channels) and AVX-512 (8 and 12 channels), torch 2.15.

    >>> model = nn.Sequential(nn.Conv2d(4, 8, 1, stride=2))
    >>> with safe_strides(model):
    ...     model(torch.zeros(1, 4, 8, 8)).shape
    torch.Size([1, 8, 4, 4])
    """
    few = any(p.dim() == 4 and p.shape[1] < LANES and tuple(p.shape[2:]) == (1, 1) for p in model.parameters())
    return _SafeStrides() if few else nullcontext()


class _SafeStrides(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    steps = _pair(stride)
    pointwise = weight.shape[1] < LANES and groups == 1 and tuple(weight.shape[2:]) == (1, 1)
    unpadded = padding == "valid" if isinstance(padding, str) else not any(_pair(padding))
    if pointwise and unpadded and max(steps) > 1 and input.device.type == "cpu":
        input, stride = input[..., :: steps[0], :: steps[1]], 1
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _pair(value: Any) -> tuple[int, int]:
    first, *others = (value,) if isinstance(value, int) else tuple(value)
    return first, others[0] if others else first
