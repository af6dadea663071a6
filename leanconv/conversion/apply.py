"""Carry out a plan on a copy of a model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leanconv.conversion.plan import Plan
from leanconv.core.base import unwrapped
from leanconv.core.errors import SettingError
from leanconv.core.finite import check_finite
from leanconv.core.method import Group
from leanconv.core.sharing import borrowed
from leanconv.core.spec import ConvSpec

ATTRIBUTE = "leanconv_plan"
Init = Literal["fresh", "fit"]


def plan_of(model: nn.Module) -> Plan | None:
    """The plan that a converted model carries, wrapped or not; None for any other model."""
    return getattr(unwrapped(model), ATTRIBUTE, None)


def convert(model: nn.Module, plan: Plan, init: Init = "fresh") -> nn.Module:
    """A converted copy of `model` that carries `plan`; `model` itself is not changed.

    Each new module takes over device, dtype, memory format, training flag and ``requires_grad`` of the convolution it
    replaces (a shared weight is trained when one of its users is); a convolution that stands under several names stays
    one module under all of them. Everything else is copied.

    Args:
        init: ``"fresh"`` initialises the new weights, for training from scratch; ``"fit"`` sets those nearest to the
            dense weights.

    Raises:
        SettingError: the plan was made for another model, or the model is lean already.
    """
    if init not in ("fresh", "fit"):
        raise SettingError(f"init={init!r} must be 'fresh' or 'fit'")
    if plan_of(model) is not None:
        raise SettingError(
            "the model is lean already; plan the dense model once, with rules [(where, method), ...] for several methods"
        )
    if init == "fit" and any(parameter.is_meta for parameter in model.parameters()):
        raise SettingError(
            "init='fit' needs the dense weights, and some are on the meta device; load them, or init='fresh'"
        )
    lean: nn.Module = copy.deepcopy(model)
    new: dict[int, nn.Module] = {}
    for group in plan.groups:
        convs = [_conv_at(lean, site.name, site.spec) for site in group.sites]
        for conv, module in zip(convs, build(group, convs, init), strict=True):
            new[id(conv)] = module
    lean = swap(lean, new)
    setattr(lean, ATTRIBUTE, plan)
    return lean


def build(group: Group, convs: Sequence[nn.Conv2d], init: Init) -> list[nn.Module]:
    """The modules of one group, each like the convolution it replaces in device, dtype and flags."""
    device, dtype = convs[0].weight.device, convs[0].weight.dtype
    with torch.device(device):
        modules = group.method.build(group.specs)
    for module in modules:
        module.to(dtype=dtype)
    if init == "fit":
        check_finite(convs, [site.name for site in group.sites])
        with torch.no_grad():
            group.method.fit_(modules, convs)
    trainable: dict[nn.Parameter, bool] = {}
    for module, conv in zip(modules, convs, strict=True):
        module.train(conv.training)
        if _is_channels_last(conv.weight):
            module.to(memory_format=torch.channels_last)
        for part in (module, *borrowed(module)):
            for name, parameter in part.named_parameters():
                is_bias = name.rpartition(".")[2] == "bias"  # its owner registers a shared one as bank.bias
                source = conv.bias if is_bias and conv.bias is not None else conv.weight
                trainable[parameter] = trainable.get(parameter, False) or source.requires_grad
    for parameter, flag in trainable.items():
        parameter.requires_grad_(flag)
    return modules


def _is_channels_last(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def swap(model: nn.Module, new: dict[int, nn.Module]) -> nn.Module:
    """`model` with every module whose id is a key of `new` replaced, wherever it stands; the root included.

    A model may hold a layer twice: registered, and in a plain attribute, list, tuple or dict that its forward uses.
    """
    if id(model) in new:
        return new[id(model)]
    for parent in list(model.modules()):
        for name, value in parent.__dict__.items():
            parent.__dict__[name] = _replaced(value, new)
    return model


def _replaced(value: Any, new: dict[int, nn.Module]) -> Any:
    """`value` with the modules in `new` replaced, in place where it can be changed."""
    if isinstance(value, nn.Module):
        return new.get(id(value), value)
    if type(value) is list:
        value[:] = [_replaced(item, new) for item in value]
    elif isinstance(value, dict):
        for key, item in value.items():
            value[key] = _replaced(item, new)
    elif type(value) is tuple:
        return tuple(_replaced(item, new) for item in value)
    return value


def _conv_at(model: nn.Module, name: str, spec: ConvSpec) -> nn.Conv2d:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise SettingError(f"the plan converts {name!r}, which {type(model).__name__} does not have") from None
    if not isinstance(module, nn.Conv2d):
        raise SettingError(f"the plan converts {name!r}, a {type(module).__name__} in this model, not a Conv2d")
    found = ConvSpec.of(module)
    if found != spec:
        differ = [f.name for f in fields(spec) if getattr(found, f.name) != getattr(spec, f.name)]
        values = ", ".join(f"{n}={getattr(found, n)} here, {getattr(spec, n)} in the plan" for n in differ)
        raise SettingError(f"the plan was made for another model: {name!r} has {values}; plan this model")
    return module
