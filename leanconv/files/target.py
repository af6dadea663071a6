"""Open a network by name or by folder: ``resnet20``, ``basis_resnet56(bases=2)``, ``timm/resnet50``, ``runs/split``."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import fx, nn

from leanconv.core.copying import copied
from leanconv.core.errors import SettingError
from leanconv.core.functions import function_text
from leanconv.core.meta import built_on_meta
from leanconv.core.wrappers import unwrapped
from leanconv.files.load import load
from leanconv.models import create_model
from leanconv.models.create import parse_target

LIBRARIES = ("torch", "torchvision", "timm", "leanconv", "lightning", "builtins")  # what they compute is known
OF_MODULES = frozenset(vars(nn.Module()))
DEEPEST = 5  # tuples in tuples

# a name or a folder, a network, or a function that builds a network
Network = str | nn.Module | Callable[[], nn.Module]


def as_text(network: Network | Path) -> Network:
    """`network`, with a path as its text.

    >>> as_text(Path("runs/dense"))
    'runs/dense'
    """
    return str(network) if isinstance(network, Path) else network


def network_name(network: Network) -> str:
    """The name of a network in tables: its text, or the name of its class or function.

    >>> network_name("resnet20"), network_name(nn.ReLU())
    ('resnet20', 'ReLU')
    """
    return network if isinstance(network, str) else getattr(network, "__name__", type(network).__name__)


def built(network: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """A copy of a network, or the network that a function returns; the network inside, if it is wrapped.

    Raises:
        SettingError: `network` is neither, or its function returns something else.

    >>> built(nn.DataParallel(nn.ReLU())), built(nn.ReLU)
    (ReLU(), ReLU())
    """
    if isinstance(network, nn.Module):
        return copied(unwrapped(network))
    if not callable(network):
        raise SettingError(
            "a network must be a name, a folder, a torch.nn.Module or a function that returns one, not "
            f"{type(network).__name__}"
        )
    return unwrapped(network())


def network_digest(network: nn.Module) -> str:
    """A short hash of a network's layers, without the addresses of objects, which differ in each process."""
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(network)).encode()).hexdigest()[:16]


def code_digest(network: nn.Module) -> str:
    """A short hash of what a network's `repr` leaves out, the same in each process of one Python version.

    These are the plain attributes of its modules (numbers, texts, and tuples, lists and dicts of them), functions and classes
    that they hold, and the methods of classes that belong to no library. It does not cover what a method reads elsewhere.

    >>> attention = [nn.MultiheadAttention(8, heads) for heads in (2, 4)]
    >>> code_digest(attention[0]) == code_digest(attention[1])
    False
    """
    found: list[Any] = []
    methods: dict[str, list[str]] = {}
    for name, module in network.named_modules():
        known = _of_library(type(module))
        held = {
            key: value for key, value in vars(module).items() if key not in OF_MODULES and (key[0] != "_" or not known)
        }
        plain = {key: _plain(value) for key, value in sorted(held.items())}
        found.append([name, {key: value for key, value in plain.items() if value is not None}])
        for kind in type(module).__mro__:
            if kind is not object and not _of_library(kind):
                own = sorted((key, value) for key, value in vars(kind).items() if isinstance(value, FunctionType))
                methods[f"{kind.__module__}.{kind.__qualname__}"] = [
                    f"{key} {function_text(value)}" for key, value in own if key != "__init__"
                ]
        if isinstance(module, fx.GraphModule):
            found.append(module.code)
    return hashlib.sha256(json.dumps([found, sorted(methods.items())]).encode()).hexdigest()[:16]


def has_own_code(network: nn.Module) -> bool:
    """Whether a module of the network has a class that belongs to no library.

    >>> has_own_code(nn.Sequential(nn.ReLU()))
    False
    """
    return not all(_of_library(type(module)) for module in network.modules())


def _of_library(named: Any) -> bool:
    return str(getattr(named, "__module__", None)).partition(".")[0] in LIBRARIES


def _plain(value: Any, depth: int = 0) -> Any:
    """A plain value, or a function or class, as JSON; None for all others, such as tensors and modules."""
    if isinstance(value, enum.Enum):
        return str(value)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype):
        return repr(value)
    if depth == DEEPEST:
        return None
    if isinstance(value, tuple | list):
        return [_plain(part, depth + 1) for part in value]
    if isinstance(value, dict):
        return sorted([repr(key), _plain(part, depth + 1)] for key, part in value.items() if isinstance(key, str | int))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if _of_library(type(value)):  # such as what leanconv notes on a network in its training
            return None
        held = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
        return [type(value).__qualname__, _plain(held, depth + 1)]
    if isinstance(value, MethodType):
        value = value.__func__  # and not the object, which the digest may be about
    if isinstance(value, FunctionType | BuiltinFunctionType | type) and _of_library(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, FunctionType | BuiltinFunctionType | partial | type):
        return function_text(value)
    return None


def is_saved(target: str) -> bool:
    """Whether `target` is a folder rather than a name."""
    return Path(target).expanduser().is_dir()


def absolute(target: str) -> str:
    """`target`, with the full path if it is a folder.

    >>> absolute("resnet20")
    'resnet20'
    """
    return str(Path(target).expanduser().resolve()) if is_saved(target) else target


def open_target(
    target: str, *, pretrained: bool = False, num_classes: int | None = None, in_chans: int | None = None
) -> nn.Module:
    """The network of a name, with or without settings in brackets, or the network saved in a folder.

    Args:
        target: the name or the folder.
        pretrained: load the weights that timm or torchvision offers.
        num_classes, in_chans: settings of the builder; settings in brackets replace them.

    Raises:
        SettingError: the name or a setting is unknown, or a folder is given together with `pretrained`.
        FileError: the folder holds no network of leanconv.

    >>> open_target("resnet20", num_classes=5).fc.out_features
    5
    """
    if not is_saved(target):
        in_brackets = parse_target(target)[1]
        given = {"num_classes": num_classes, "in_chans": in_chans}
        return create_model(target, pretrained, **{key: given[key] for key in given if key not in in_brackets})
    if pretrained:
        raise SettingError(f"--pretrained is for networks by name; the folder {target} holds its own weights")
    return load(Path(target).expanduser())


def open_without_weights(target: str) -> nn.Module:
    """The network of `target`; by name it is built on the meta device, where nothing is allocated or computed."""
    return open_target(target) if is_saved(target) else built_on_meta(lambda: open_target(target))
