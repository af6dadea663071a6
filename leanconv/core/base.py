"""How a network was built, and its input size."""

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
    """Whether `model` is a wrapper with the network in its ``module``; wrappers of other packages are known by name."""
    if isinstance(model, AveragedModel | nn.parallel.DistributedDataParallel | nn.DataParallel):
        return True
    kinds = {(kind.__module__, kind.__name__) for kind in type(model).__mro__}
    return bool(kinds & WRAPPERS)


def set_base(model: nn.Module, name: str, kwargs: Mapping[str, Any]) -> None:
    """Record on `model` that ``create_model(name, **kwargs)`` builds such a network.

    Nothing is recorded if a keyword is no JSON value, such as a class or a function. To load such a network, the user
    passes the model.
    """
    try:
        base = {"name": name, "kwargs": json.loads(json.dumps(dict(kwargs), allow_nan=False))}
    except (TypeError, ValueError):
        base = None
    set_record(model, replace(get_record(model), base=base))


def get_base(model: nn.Module) -> Mapping[str, Any] | None:
    """``{"name", "kwargs"}`` of a model that `create_model` built; None for other models."""
    return get_record(unwrapped(model)).base


def input_size_of(model: nn.Module) -> tuple[int, int, int] | None:
    """(channels, height, width) for which `model` was trained or designed; None when the model does not state it.

    The first of these that is known: the task on the model (`leanconv.set_task`; training sets it), leanconv's
    ``default_input_size``, timm's ``pretrained_cfg``, torchvision's 224 pixels.

    >>> from leanconv.models import create_model
    >>> input_size_of(create_model("resnet20"))
    (3, 32, 32)
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
        # timm gives the size of the published weights, even if the model was built with other in_chans
        return base["kwargs"].get("in_chans", channels), height, width
    if base["name"].startswith("torchvision/"):
        side = getattr(model, "image_size", 224)
        return 3, side, side
    return None


def image_size(size: Any) -> tuple[int, int, int]:
    """`size` as (channels, height, width).

    Raises:
        SettingError: `size` is not three whole numbers of at least 1.

    >>> image_size([3, 32, 32])
    (3, 32, 32)
    """
    try:
        channels, height, width = (operator.index(value) for value in size)
    except (TypeError, ValueError):
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise SettingError(f"input_size={size!r} must be (channels, height, width), three whole numbers of at least 1")
    return channels, height, width
