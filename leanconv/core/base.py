"""Where a network came from and what it takes: the two facts that files and plans need about any model."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from leanconv.core.errors import SettingError
from leanconv.core.record import get_record, set_record

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


def _is_wrapper(model: nn.Module) -> bool:
    """Whether the network is the ``module`` of `model`: of torch's wrappers, and of packages that need not be imported."""
    if isinstance(model, AveragedModel | nn.parallel.DistributedDataParallel | nn.DataParallel):
        return True
    kinds = {(kind.__module__, kind.__name__) for kind in type(model).__mro__}
    return bool(kinds & WRAPPERS)


def set_base(model: nn.Module, name: str, kwargs: Mapping[str, Any]) -> None:
    """Note on `model` that ``create_model(name, **kwargs)`` builds one like it.

    Keywords that JSON cannot hold (a class, a function) leave the note empty: such a model is reloaded by handing it in.
    """
    try:
        base = {"name": name, "kwargs": json.loads(json.dumps(dict(kwargs), allow_nan=False))}
    except (TypeError, ValueError):
        base = None
    set_record(model, replace(get_record(model), base=base))


def get_base(model: nn.Module) -> Mapping[str, Any] | None:
    """``{"name", "kwargs"}`` of a model that `create_model` built; None for any other."""
    return get_record(unwrapped(model)).base


def input_size_of(model: nn.Module) -> tuple[int, int, int] | None:
    """(channels, height, width) that `model` was trained for, else made for; None when it does not say.

    Read from the task that is noted on it (`leanconv.set_task`, as training does), then leanconv's ``default_input_size``, then
    timm's ``pretrained_cfg``, then torchvision's 224 pixels.
    """
    model = unwrapped(model)
    task = get_record(model).task
    if task is not None:
        return (task.channels, *task.image_size)
    own = getattr(model, "default_input_size", None)
    if own is not None:
        return image_size(own)
    base = get_base(model) or {"name": "", "kwargs": {}}
    config = getattr(model, "pretrained_cfg", None)
    if config is not None and config.get("input_size"):
        channels, height, width = image_size(config["input_size"])
        # timm keeps the size of the published weights there, whatever in_chans the model was built with
        return base["kwargs"].get("in_chans", channels), height, width
    if base["name"].startswith("torchvision/"):
        side = getattr(model, "image_size", 224)
        return 3, side, side
    return None


def image_size(size: Any) -> tuple[int, int, int]:
    """`size` as (channels, height, width).

    Raises:
        SettingError: it is not three whole numbers of at least 1.
    """
    try:
        channels, height, width = (operator.index(value) for value in size)
    except (TypeError, ValueError):
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise SettingError(f"input_size={size!r} must be (channels, height, width), three whole numbers of at least 1")
    return channels, height, width
