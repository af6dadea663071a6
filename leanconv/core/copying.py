"""Copies of a network: what deepcopy leaves out is kept, and what it cannot copy is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from leanconv.core.errors import LeanconvError, SettingError, first_line

REGISTRIES = ("_parameters", "_buffers", "_modules")


class _CopyingTensors(TorchFunctionMode):
    """While it is active, deepcopy copies every tensor that is no parameter by `how`, wherever it lies."""

    def __init__(self, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.how = how

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = self.how(tensor)
        return memo[id(tensor)]


def _own(tensor: Tensor) -> Tensor:
    """A copy of a plain tensor; deepcopy refuses one that was computed from a parameter, as weight_norm, pruning and a
    stored feature map leave it."""
    return tensor.detach().clone() if tensor.grad_fn is not None else copy.deepcopy(tensor)


def copied(model: nn.Module, how: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """A deep copy of `model`, with the gradient hooks of its parameters.

    A tensor that was computed from a parameter is copied by its value; the forward pass computes it anew.

    Args:
        how: makes the copies of all tensors, in place of plain copies; the gradient hooks are left out then.

    Raises:
        SettingError: the model holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    if how is not None:
        with torch.no_grad():
            for module in model.modules():
                for parameter in module._parameters.values():
                    if parameter is not None and id(parameter) not in memo:
                        memo[id(parameter)] = nn.Parameter(how(parameter), requires_grad=parameter.requires_grad)
    try:
        with _CopyingTensors(how or _own):
            twin: nn.Module = copy.deepcopy(model, memo)
    except LeanconvError:
        raise
    except Exception as error:
        raise SettingError(
            f"{type(model).__name__} cannot be copied: {_culprit(model)} ({first_line(error)}); "
            "take it off the model, or give its class a __deepcopy__"
        ) from error
    if how is None:
        _keep_gradient_hooks(model, twin)
    return twin


def _keep_gradient_hooks(model: nn.Module, twin: nn.Module) -> None:
    """Register the hooks of each parameter, which deepcopy leaves out, with its copy."""
    copies = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        if name not in copies or copies[name] is parameter:
            continue
        for hook in (parameter._backward_hooks or {}).values():
            copies[name].register_hook(hook)
        for hook in (getattr(parameter, "_post_accumulate_grad_hooks", None) or {}).values():
            copies[name].register_post_accumulate_grad_hook(hook)


def _culprit(model: nn.Module) -> str:
    """Which attribute deepcopy stumbles over."""
    whole: dict[int, Any] = {id(part): part for part in (*model.modules(), *model.parameters(), *model.buffers())}
    for name, module in model.named_modules():
        for key, value in module.__dict__.items():
            if key in REGISTRIES:
                continue
            try:
                with _CopyingTensors(_own):
                    copy.deepcopy(value, dict(whole))
            except Exception:
                return f"its attribute {f'{name}.{key}' if name else key!r} is a {type(value).__name__}"
    return "a part of it refuses"


def refuse_lazy(model: nn.Module) -> None:
    """Raise where a parameter or buffer has no shape yet.

    Raises:
        SettingError: a layer is lazy and was not run yet.
    """
    for name, module in model.named_modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and nn.parameter.is_lazy(tensor):
                raise SettingError(f"{name!r} is lazy and has no shape yet; run the model once on an image first")
