"""Carry out a plan on a copy of a model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields
from typing import Literal

import torch
from torch import nn

from leanconv.conversion.plan import Plan
from leanconv.core.errors import SettingError
from leanconv.core.method import Group
from leanconv.core.spec import ConvSpec

ATTRIBUTE = "leanconv_plan"
Init = Literal["fresh", "fit"]


def plan_of(model: nn.Module) -> Plan | None:
    """The plan that a converted model carries; None for any other model."""
    return getattr(model, ATTRIBUTE, None)


def convert(model: nn.Module, plan: Plan, init: Init = "fresh") -> nn.Module:
    """A converted copy of `model` that carries `plan`; `model` itself is not changed.

    Each new module takes over device, dtype, training flag and ``requires_grad`` of the convolution it replaces; a
    convolution that stands under several names stays one module under all of them. Everything else is copied.

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
        with torch.no_grad():
            group.method.fit_(modules, convs)
    trainable = any(parameter.requires_grad for conv in convs for parameter in conv.parameters())
    for module, conv in zip(modules, convs, strict=True):
        module.train(conv.training)
        module.requires_grad_(trainable)
    return modules


def swap(model: nn.Module, new: dict[int, nn.Module]) -> nn.Module:
    """`model` with every module whose id is a key of `new` replaced, under each of its names; the root included."""
    if id(model) in new:
        return new[id(model)]
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and id(child) in new:
                parent._modules[name] = new[id(child)]
    return model


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
