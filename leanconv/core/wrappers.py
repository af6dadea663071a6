"""The network inside what training and compiling put around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from leanconv.core.errors import SettingError

WRAPPERS = {
    *(("timm.utils.model_ema", name) for name in ("ModelEma", "ModelEmaV2", "ModelEmaV3")),
    ("lightning.fabric.wrappers", "_FabricModule"),
}


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, an averaged model (torch's or timm's), Fabric's or a data parallel wrapper.

    Raises:
        SettingError: `model` is no network.
    """
    if not isinstance(model, nn.Module):
        raise SettingError(
            f"a network must be a torch.nn.Module, not {type(model).__name__}; build it with create_model"
        )
    inner: Any = model
    while True:
        if _is_wrapper(inner):
            inner = inner.module
        elif hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod
        else:
            return inner


def unscripted(model: nn.Module, do: str) -> nn.Module:
    """The network inside wrappers, as `unwrapped` finds it, whose layers can be seen.

    Args:
        do: what the caller does with the layers: "prune".

    Raises:
        SettingError: the network is scripted or traced by ``torch.jit``, or is no network.
    """
    model = unwrapped(model)
    if isinstance(model, torch.jit.ScriptModule):
        kind = getattr(model, "original_name", type(model).__name__)
        raise SettingError(
            f"{kind} is scripted, which hides its layers; {do} the network first, and script it afterwards"
        )
    return model


def _is_wrapper(model: nn.Module) -> bool:
    """Whether the network is the ``module`` of `model`: of torch's wrappers, and of packages that need not be imported."""
    if isinstance(model, AveragedModel | nn.parallel.DistributedDataParallel | nn.DataParallel):
        return True
    kinds = {(kind.__module__, kind.__name__) for kind in type(model).__mro__}
    return bool(kinds & WRAPPERS)
