"""A copy of a model without its weights: shapes only, free to run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError, first_line

InputSize = tuple[int, int, int]


def on_meta(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode whose parameters and buffers are on the meta device; nothing is moved or cloned.

    Sharing is kept: a tensor that stands under two names is one tensor in the copy.

    Raises:
        SettingError: a module holds a tensor that cannot be copied.
    """
    memo: dict[int, object] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                with torch.no_grad():
                    memo[id(parameter)] = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        for buffer in module._buffers.values():
            if buffer is not None:
                memo[id(buffer)] = buffer.to("meta")
    try:
        twin: nn.Module = copy.deepcopy(model, memo)
    except RuntimeError as error:  # a tensor that is computed from a parameter, as weight_norm and pruning leave them
        raise SettingError(
            f"{type(model).__name__} cannot be copied ({first_line(error)}); make reparametrised weights plain "
            "first, with torch.nn.utils.remove_weight_norm or torch.nn.utils.prune.remove"
        ) from error
    for module in twin.modules():  # a hook of the user's may want real values
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            hooks.clear()
    return twin.eval()


@contextmanager
def quiet_failure(model: nn.Module, input_size: InputSize) -> Iterator[None]:
    """Turn any failure of a forward pass on the meta device into one line that names the input."""
    try:
        yield
    except Exception as error:
        reason = first_line(error)
        raise SettingError(
            f"{type(model).__name__} does not run on an input of {input_size} without real weights ({reason}); "
            "pass the input_size=(channels, height, width) it expects"
        ) from error


def example_input(model: nn.Module, input_size: InputSize) -> Tensor:
    """One empty image for `model`, on the meta device, in the dtype of its first parameter."""
    parameter = next(model.parameters(), None)
    dtype = parameter.dtype if parameter is not None and parameter.is_floating_point() else torch.float32
    return torch.empty((1, *input_size), device="meta", dtype=dtype)
