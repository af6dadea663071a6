"""Copies of a network: gradient hooks are copied too, and an error names the attribute that cannot be copied."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from leanconv.core.closures import REGISTRIES, rebind_
from leanconv.core.errors import LeanconvError, SettingError, first_line
from leanconv.core.storage import Memory, memory_of
from leanconv.core.wrappers import unwrapped


class _CopyingTensors(TorchFunctionMode):
    """A mode in which deepcopy calls `how` to copy every tensor that is not a parameter.

    With None, tensors that share memory still do so in the copy. deepcopy refuses a tensor that was computed from a parameter,
    which weight_norm, pruning and stored feature maps leave on a module; it is copied by its value.
    """

    def __init__(self, how: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.how = how

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            if self.how is not None:
                memo[id(tensor)] = self.how(tensor)
            elif tensor.grad_fn is not None:
                memo[id(tensor)] = tensor.detach().clone()
            else:
                return func(tensor, memo)
        return memo[id(tensor)]


def copied(model: nn.Module, how: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """A deep copy of `model`, with the gradient hooks of its parameters.

    A tensor that was computed from a parameter is copied by its value; the forward pass computes it anew. Tensors that share
    memory still do so, parameters included, which deepcopy would separate. A function in an attribute that captured modules of
    `model` uses those of the copy.

    Args:
        how: copies each tensor; None makes plain copies. With `how`, gradient hooks are left out, and only parameters that are
            the same part of one memory still share it.

    Raises:
        SettingError: an attribute of the model cannot be copied, or holds a function that would use `model` itself.
    """
    memo: dict[int, Any] = {}
    if how is not None:
        data: dict[Memory, Tensor] = {}
        with torch.no_grad():
            for module in model.modules():
                for parameter in module._parameters.values():
                    if parameter is not None and id(parameter) not in memo:
                        held = memory_of(parameter)
                        if held not in data:
                            data[held] = how(parameter)
                        memo[id(parameter)] = nn.Parameter(data[held], requires_grad=parameter.requires_grad)
    try:
        with _CopyingTensors(how):
            for parameter in _overlapping(model) if how is None else ():
                values = copy.deepcopy(parameter.detach(), memo)
                memo[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
            twin: nn.Module = copy.deepcopy(model, memo)
        rebind_(model, twin, memo)
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


def _overlapping(model: nn.Module) -> list[nn.Parameter]:
    """The parameters whose memory another tensor of `model` also uses, as after ``b.weight.data = a.weight.data``."""
    users: dict[int, dict[int, Tensor]] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        with contextlib.suppress(RuntimeError, NotImplementedError, ValueError):  # sparse, lazy and the like
            users.setdefault(tensor.untyped_storage()._cdata, {})[id(tensor)] = tensor
    several = (tensor for found in users.values() if len(found) > 1 for tensor in found.values())
    return [tensor for tensor in several if type(tensor) is nn.Parameter]


def _keep_gradient_hooks(model: nn.Module, twin: nn.Module) -> None:
    """Register the gradient hooks of each parameter on its copy; deepcopy leaves them out."""
    copies = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        if name not in copies or copies[name] is parameter:
            continue
        for hook in (parameter._backward_hooks or {}).values():
            copies[name].register_hook(hook)
        for hook in (getattr(parameter, "_post_accumulate_grad_hooks", None) or {}).values():
            copies[name].register_post_accumulate_grad_hook(hook)


def _culprit(model: nn.Module) -> str:
    """The attribute that deepcopy cannot copy, in words."""
    whole: dict[int, Any] = {id(part): part for part in (*model.modules(), *model.parameters(), *model.buffers())}
    for name, module in model.named_modules():
        for key, value in module.__dict__.items():
            if key in REGISTRIES:
                continue
            try:
                with _CopyingTensors():
                    copy.deepcopy(value, dict(whole))
            except Exception:
                return f"its attribute {f'{name}.{key}' if name else key!r} is a {type(value).__name__}"
    return "a part of it refuses"


def refuse_lazy(model: nn.Module) -> None:
    """Raise an error if a parameter or buffer of `model` has no shape yet.

    Raises:
        SettingError: a layer is lazy and has not run yet, or `model` is no network.
    """
    unwrapped(model)
    for name, module in model.named_modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and nn.parameter.is_lazy(tensor):
                raise SettingError(f"{name!r} is lazy and has no shape yet; run the model once on an image first")


def refuse_meta(model: nn.Module, then: str = "build it on the CPU, and load its weights first") -> None:
    """Raise an error if a parameter or buffer of `model` is on the meta device.

    Args:
        model: the network.
        then: the way out, for the message.

    Raises:
        SettingError: a tensor holds no values.

    >>> refuse_meta(nn.Linear(2, 2, device="meta"), "load it first")
    Traceback (most recent call last):
    leanconv.core.errors.SettingError: 'weight' is on the meta device, which holds no values; load it first
    """
    held = (*model.named_parameters(), *model.named_buffers())
    name = next((name for name, tensor in held if not nn.parameter.is_lazy(tensor) and tensor.is_meta), None)
    if name is not None:
        raise SettingError(f"{name!r} is on the meta device, which holds no values; {then}")
