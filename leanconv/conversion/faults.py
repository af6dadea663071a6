"""Reasons why no method can replace a layer: properties of the layer that would be lost silently."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from leanconv.core.errors import SettingError
from leanconv.core.record import ATTRIBUTE
from leanconv.core.spec import ConvSpec

Layer = nn.Conv2d | nn.Linear
# Attributes of every convolution and linear layer; others belong to the network's author
PLAIN = frozenset({*nn.Conv2d(1, 1, 1, device="meta").__dict__, *nn.Linear(1, 1, device="meta").__dict__})
HOOKS = {
    "forward hooks": ("_forward_hooks", "_forward_pre_hooks"),
    "backward hooks": ("_backward_hooks", "_backward_pre_hooks"),
    "state dict hooks": (
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
    ),
}
TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def spec_of(layer: Layer) -> ConvSpec | str:
    """The spec of `layer`, or a text that states how its attributes contradict each other or its weight."""
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not isinstance(weight, Tensor):
        return f"its weight is {weight!r} and no tensor"
    linear = isinstance(layer, nn.Linear)
    try:
        spec = ConvSpec.of_linear(layer) if isinstance(layer, nn.Linear) else ConvSpec.of(layer)
    except (SettingError, TypeError, AttributeError) as error:
        return f"its attributes make no {'linear layer' if linear else 'convolution'}: {error}"
    shape = spec.weight_shape[:2] if linear else spec.weight_shape
    if tuple(weight.shape) != shape:
        return f"its weight has shape {tuple(weight.shape)} and its attributes say {shape}"
    if bias is not None and tuple(bias.shape) != (spec.out_channels,):
        out = "out_features" if linear else "out_channels"
        return f"its bias has shape {tuple(bias.shape)} and {out} is {spec.out_channels}"
    changed = isinstance(layer, nn.Conv2d) and list(spec.pads) != list(layer._reversed_padding_repeated_twice)
    if changed and spec.padding_mode != "zeros":
        return (
            f"its padding was set to {layer.padding} afterwards, and with {spec.padding_mode!r} it uses the old padding"
        )
    return spec


def fault(conv: Layer) -> str | None:
    """The reason why a new module could not replace `conv`; None if it could."""
    if parametrize.is_parametrized(conv):
        return "it is parametrised; remove the parametrisations first (torch.nn.utils.parametrize)"
    weight, bias = conv._parameters.get("weight"), conv._parameters.get("bias")
    if weight is None or (conv.bias is not None and bias is None):
        return (
            "its weight is computed from other tensors (weight_norm, spectral_norm, pruning, FSDP); make it plain first"
        )
    if (what := hooks_of(conv)) is not None:
        return f"it has {what}, which a new module would lose; remove them first"
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and any(getattr(parameter, hooks, None) for hooks in TENSOR_HOOKS):
            return f"its {name} has gradient hooks, which a new tensor would lose; remove them first"
    if {"forward", "_conv_forward"} & conv.__dict__.keys():
        return "its forward was replaced on the object; convert first, and replace it afterwards"
    more = [*(set(conv._parameters) - {"weight", "bias"}), *conv._buffers, *conv._modules]
    more += [key for key, value in conv.__dict__.items() if key not in PLAIN and isinstance(value, nn.Module)]
    if more:
        return f"it holds more than a weight and a bias: {more[0]!r}, which a new module would lose"
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and type(parameter.data) is not Tensor:
            return f"its {name} is a {type(parameter.data).__name__} and no plain tensor"
    if not weight.is_floating_point():
        return f"its weight is {_name(weight.dtype)}; only real numbers convert"
    if bias is not None and (bias.dtype, bias.device) != (weight.dtype, weight.device):
        return (
            f"its weight is {_name(weight.dtype)} on {weight.device} and its bias {_name(bias.dtype)} on {bias.device}"
        )
    return None


def hooks_of(module: nn.Module) -> str | None:
    """The kind of hooks that `module` has; None without hooks."""
    return next((what for what, names in HOOKS.items() if any(getattr(module, name, None) for name in names)), None)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def carry(name: str, conv: Layer, module: nn.Module) -> tuple[str, ...]:
    """Copy to `module` the attributes that the network's author has set on `conv`, whose name is `name`; return their names.

    Raises:
        SettingError: an attribute has the name of one that `module` computes with.
    """
    carried = []
    held = {*vars(module), *module._parameters, *module._buffers, *module._modules}
    for key, value in conv.__dict__.items():
        if key in PLAIN or (key == ATTRIBUTE and key in held):
            continue
        if key in held or getattr(type(module), key, None) is not getattr(nn.Module, key, None):
            raise SettingError(
                f"{name!r} has an attribute {key!r}, and {type(module).__name__} has one of its own; rename the attribute, or "
                f"keep this layer dense with exclude={name!r}"
            )
        module.__dict__[key] = value
        if key != ATTRIBUTE:
            carried.append(key)
    return tuple(carried)


def mixed(convs: list[tuple[str, Layer]]) -> str | None:
    """How the weights of layers that should share a weight differ in dtype or device; None if they do not differ."""
    kinds: dict[Any, str] = {}
    for name, conv in convs:
        kinds.setdefault((conv.weight.dtype, conv.weight.device), name)
    if len(kinds) < 2:
        return None
    said = [f"{name!r} is {_name(dtype)} on {device}" for (dtype, device), name in kinds.items()]
    return f"{said[0]} and {said[1]}, and one weight cannot be both; give them rules of their own"
