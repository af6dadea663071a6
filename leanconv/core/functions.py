"""Functions that a user gives, as texts: two texts differ if the functions compute differently."""

from __future__ import annotations

import hashlib
import inspect
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

PLAIN = (int, float, complex, str, bytes, type(None), type(...))


def function_text(function: object) -> str:
    """The name of a function and a short hash of its code, the same in each process of one Python version.

    The hash covers default values, variables of enclosing functions and attributes of a callable object, as far as these are
    numbers, texts, tuples or functions. It does not cover what the function reads from its module.

    Args:
        function: a function, a method, ``functools.partial`` or a callable object; of other objects, only the type counts.

    >>> function_text(len)
    'builtins.len'
    >>> function_text(lambda network: 1.0) == function_text(lambda network: 2.0)
    False
    """
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    named: Any = inner if hasattr(inner, "__qualname__") else type(inner)
    content = _content(function, ())
    text = f"{named.__module__}.{named.__qualname__}"
    return text if isinstance(content, str) else f"{text} {hashlib.sha256(repr(content).encode()).hexdigest()[:8]}"


def _content(value: Any, outer: tuple[int, ...]) -> Any:
    """What decides a value, as lists and texts; the name of its type, if nothing else is known.

    Args:
        outer: the values that are being read, because a function may refer to itself.
    """
    if isinstance(value, PLAIN):
        return repr(value)
    if id(value) in outer:
        return "itself"
    within = (*outer, id(value))
    if isinstance(value, tuple):
        parts = list(value)
    elif isinstance(value, frozenset):  # its order differs between processes
        return sorted(repr(_content(part, within)) for part in value)
    elif isinstance(value, CodeType):
        parts = [value.co_code, value.co_names, value.co_consts]
    elif isinstance(value, partial):
        parts = [value.func, value.args, tuple(sorted(value.keywords.items()))]
    elif isinstance(value, MethodType):
        parts = [value.__func__, value.__self__]
    elif isinstance(value, FunctionType):
        cells = tuple(_held(cell) for cell in value.__closure__ or ())
        parts = [value.__code__, value.__defaults__, tuple((value.__kwdefaults__ or {}).items()), cells]
    elif isinstance(call := inspect.getattr_static(type(value), "__call__", None), FunctionType):
        own = {name: held for name, held in getattr(value, "__dict__", {}).items() if isinstance(held, PLAIN)}
        parts = [call, tuple(sorted(own.items()))]
    else:
        return type(value).__qualname__
    return [_content(part, within) for part in parts]


def _held(cell: Any) -> Any:
    """The value of a variable of an enclosing function; None before it has one."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
