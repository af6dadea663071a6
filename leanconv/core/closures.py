"""Functions in the attributes of a network that captured its modules: deepcopy leaves them as they are."""

from __future__ import annotations

import copy
import functools
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from leanconv.core.errors import SettingError

DEPTH = 8  # nested containers and functions
REGISTRIES = ("_parameters", "_buffers", "_modules")


def rebind_(model: nn.Module, twin: nn.Module, memo: Mapping[int, Any]) -> None:
    """Let functions in the attributes of `twin` use the modules of `twin`, where those of `model` captured modules of `model`.

    Hooks are such functions too.

    Args:
        model: the network.
        twin: its deep copy.
        memo: that of the deep copy: {id of an object: its copy}.

    Raises:
        SettingError: a function captured a module in an object that is no container.
    """
    own = {id(part): part for part in (*model.modules(), *model.parameters(), *model.buffers())}
    rebinding = _Rebinding({key: memo[key] for key in own if key in memo})
    for name, module in list(twin.named_modules()):
        for key, value in list(module.__dict__.items()):
            if key not in REGISTRIES and value is not None:
                rebinding.where = None if key.endswith("_hooks") else f"{name}.{key}" if name else key
                new = rebinding.value(value)
                if new is not value:
                    module.__dict__[key] = new


def detach_(hooks: dict[int, Any]) -> None:
    """Let functions among `hooks` keep what they captured, but with copies of captured lists, dicts and sets."""
    rebinding = _Rebinding({}, detached=True)
    for key, hook in hooks.items():
        hooks[key] = rebinding.value(hook)


class _Rebinding:
    """Values in which functions are replaced by functions that captured the copies.

    Args:
        copies: {id of a module or tensor of the network: its copy}.
        detached: copy captured lists, dicts and sets.
    """

    def __init__(self, copies: Mapping[int, Any], detached: bool = False) -> None:
        self.copies, self.detached = dict(copies), detached
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # so that an id is not given to another object
        self.where: str | None = None  # the attribute, for messages; hooks have none, as they often hold loggers
        self._cells: dict[int, types.CellType] = {}
        self._functions: dict[int, types.FunctionType] = {}

    def value(self, value: Any, depth: int = DEPTH) -> Any:
        """The value of an attribute of the copy; its containers are copies already, and are changed in place."""
        if depth == 0:
            return value
        if isinstance(value, types.FunctionType):
            return self.function(value, depth)
        if isinstance(value, functools._lru_cache_wrapper):
            return self._cached(value, depth)
        if isinstance(value, functools.partial):
            return self._partial(value, [self.value(item, depth - 1) for item in (value.func, *value.args)], depth)
        if type(value) is tuple:
            items = tuple(self.value(item, depth - 1) for item in value)
            return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
        if isinstance(value, dict | list) and id(value) not in self._seen:
            self._seen.add(id(value))
            for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
                new = self.value(item, depth - 1)
                if new is not item:
                    value[key] = new
        return value

    def function(self, function: types.FunctionType, depth: int) -> types.FunctionType:
        """`function`, or a function of the same code with the copies where it captured what is copied."""
        if id(function) in self._functions:
            return self._functions[id(function)]
        self._functions[id(function)] = function  # a function may capture itself
        cells = tuple(self._cell(cell, depth) for cell in function.__closure__ or ())
        defaults = self.captured(function.__defaults__, depth - 1)
        named = self.captured(function.__kwdefaults__, depth - 1)
        same = all(a is b for a, b in zip(cells, function.__closure__ or (), strict=True))
        if same and defaults is function.__defaults__ and named is function.__kwdefaults__:
            return function
        made = types.FunctionType(function.__code__, function.__globals__, function.__name__, defaults, cells or None)
        made.__kwdefaults__ = named
        made.__qualname__, made.__module__, made.__doc__ = function.__qualname__, function.__module__, function.__doc__
        made.__annotations__ = dict(function.__annotations__)
        made.__dict__.update(function.__dict__)
        self._functions[id(function)] = made
        return made

    def _cell(self, cell: types.CellType, depth: int) -> types.CellType:
        if id(cell) not in self._cells:
            self._cells[id(cell)] = cell
            try:
                value = cell.cell_contents
            except ValueError:  # not filled yet
                return cell
            new = self.captured(value, depth - 1)
            if new is not value:
                self._cells[id(cell)] = types.CellType(new)
        return self._cells[id(cell)]

    def captured(self, value: Any, depth: int) -> Any:
        """What a function captured, with the copies in place of what is copied; nothing is changed in place."""
        if id(value) in self.copies:
            return self.copies[id(value)]
        if depth <= 0 or value is None or isinstance(value, Tensor | nn.Module):
            return value
        if isinstance(value, types.FunctionType):
            return self.function(value, depth)
        if isinstance(value, types.MethodType):
            owner = self.captured(value.__self__, depth - 1)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if isinstance(value, functools.partial):
            return self._partial(value, [self.captured(item, depth - 1) for item in (value.func, *value.args)], depth)
        if self.detached and isinstance(value, list | dict | set | deque):
            self._kept.append(value)
            return self.copies.setdefault(id(value), copy.copy(value))
        if isinstance(value, functools._lru_cache_wrapper):
            return self._cached(value, depth)
        if type(value) in (list, tuple, set):
            items = [self.captured(item, depth - 1) for item in value]
            return type(value)(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
        if type(value) is dict:
            found = {key: self.captured(item, depth - 1) for key, item in value.items()}
            return found if any(found[key] is not value[key] for key in found) else value
        if self.where is not None and any(id(held) in self.copies for held in _held(value)):
            raise SettingError(
                f"{self.where!r} is a function that captured a part of the network in a {type(value).__name__}, so a copy would "
                "compute with the original network; make it a method, a functools.partial or a types.MethodType"
            )
        return value

    def _cached(self, value: Any, depth: int) -> Any:
        inner = self.captured(value.__wrapped__, depth - 1)
        return value if inner is value.__wrapped__ else functools.lru_cache(**value.cache_parameters())(inner)

    def _partial(self, value: Any, parts: list[Any], depth: int) -> Any:
        named = {key: self.captured(item, depth - 1) for key, item in value.keywords.items()}
        same = all(a is b for a, b in zip(parts, (value.func, *value.args), strict=True))
        if same and all(named[key] is value.keywords[key] for key in named):
            return value
        return functools.partial(parts[0], *parts[1:], **named)


def _held(value: Any) -> Iterator[Any]:
    """The attributes of an object of a user's class."""
    if type(value).__module__.partition(".")[0] not in ("torch", "builtins", "lightning"):
        yield from vars(value).values() if hasattr(value, "__dict__") and not isinstance(value, type) else ()
