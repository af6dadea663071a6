"""The operators: one file for each, with its module, its method, its count formulas and its fit.

This module imports all files of this folder. So their methods are registered, and the names in their ``__all__`` are names
of `leanconv`. A new operator is a new file; no other file is edited.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from leanconv.core.registry import all_methods, find_method, list_methods

if TYPE_CHECKING:
    from leanconv.core.method import Method

    METHODS: tuple[type[Method], ...]

__all__ = ["METHODS", "find_method", "list_methods"]
for _file in iter_modules(__path__):
    _module = import_module(f"{__name__}.{_file.name}")
    for _name in getattr(_module, "__all__", ()):
        globals()[_name] = getattr(_module, _name)
        __all__ += [_name]


def __getattr__(name: str) -> Any:
    if name == "METHODS":  # all methods that are registered now, in leanconv and in other packages
        return all_methods()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
