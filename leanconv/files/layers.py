"""What layers a network has, to see whether a network that is built again by its name is still the same one."""

from __future__ import annotations

import json
import re
import zlib

from torch import nn

from leanconv.conversion.apply import convert, plan_of
from leanconv.conversion.channel_plan import channel_plans
from leanconv.core.errors import LeanconvError
from leanconv.core.notes import get_base
from leanconv.models.create import rebuild_base

ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of objects, which differ in each process
ALIKE = {"SyncBatchNorm": "BatchNorm2d"}  # they compute the same outside of training


def layer_codes(model: nn.Module) -> str:
    """A code of six digits for each module: of its name, its class and its settings.

    >>> layer_codes(nn.ReLU()) == layer_codes(nn.GELU()), len(layer_codes(nn.Sequential(nn.ReLU())).split())
    (False, 2)
    """
    return " ".join(f"{zlib.crc32(_line(name, module).encode()):08x}"[2:] for name, module in model.named_modules())


def _line(name: str, module: nn.Module) -> str:
    kind = type(module).__name__.removeprefix("FSDP")  # torch's fully_shard gives each class a new name
    try:
        settings = ADDRESS.sub("", module.extra_repr())
    except Exception:  # the author's own code, which may need an attribute that is gone
        settings = ""
    return f"{name} {ALIKE.get(kind, kind)} {settings}"


def other_layer(model: nn.Module, codes: str) -> str | None:
    """The first module of `model` that differs from those of `codes`, in words; None if all are the same.

    >>> other_layer(nn.Sequential(nn.Tanh()), layer_codes(nn.Sequential(nn.ReLU())))
    "'0' is Tanh()"
    """
    found, wanted = layer_codes(model).split(), codes.split()
    for (name, module), own, other in zip(model.named_modules(), found, wanted, strict=False):
        if own != other:
            text = f"{type(module).__name__}({_line('', module).split(' ', 2)[2]})"
            return f"{name!r} is {text}" if name else f"the network is {text}"
    return None if len(found) == len(wanted) else f"it has {len(found)} modules and not {len(wanted)}"


def changed_layer(model: nn.Module) -> str | None:
    """The first module that differs from those of the network which `load` builds by the name of `model`, in words.

    None if all are the same, or if the network has no name.
    """
    if get_base(model) is None:
        return None
    try:
        return other_layer(model, _codes_of_built(model))
    except LeanconvError as error:
        return f"it cannot be built again ({error})"
    except Exception:  # of other libraries; `load` says why
        return None


_BUILT: dict[str, str] = {}  # a run saves its network after each epoch, and builds it once for all of them


def _codes_of_built(model: nn.Module) -> str:
    plan = plan_of(model)
    key = json.dumps([get_base(model), [one.to_json() for one in channel_plans(model)], plan and plan.to_json()])
    if key not in _BUILT:
        built = rebuild_base(model)
        assert built is not None
        if plan is not None and plan.groups and plan_of(built) != plan:
            built = convert(built, plan)
        _BUILT[key] = layer_codes(built)
    return _BUILT[key]
