"""Methods as text: ``tied_block(blocks=4)``, read as syntax and never evaluated."""

from __future__ import annotations

import ast
import difflib
from dataclasses import fields
from typing import Any

from leanconv.core.errors import SettingError
from leanconv.core.method import Method
from leanconv.ops import METHODS_BY_NAME

DENSE = "dense"
NAMES = (DENSE, *METHODS_BY_NAME)
EXAMPLE = "tied_block(blocks=2)"


def parse_methods(text: str) -> dict[str, Method | None]:
    """Methods separated by commas, by their canonical text; ``dense`` is None.

    Raises:
        SettingError: not such a list, an unknown method or setting, a value that a method refuses, one method twice.
    """
    methods: dict[str, Method | None] = {}
    for node in _elements(text):
        method = _method(node, text)
        label = label_of(method)
        if label in methods:
            raise SettingError(f"{label} is given twice; leave one out")
        methods[label] = method
    return methods


def parse_method(text: str) -> Method | None:
    """One method; None for ``dense``."""
    methods = parse_methods(text)
    if len(methods) > 1:
        raise SettingError(
            f"one method is wanted here, and {text!r} has {len(methods)}; `leanconv compare` takes several"
        )
    return next(iter(methods.values()))


def label_of(method: Method | None) -> str:
    """The canonical text of a method: its label in every table."""
    return DENSE if method is None else method.label()


def _elements(text: str) -> list[ast.expr]:
    try:
        tree = ast.parse(f"[{text.strip()}]", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise _unreadable(text) from None
    if not isinstance(tree, ast.List) or not tree.elts:
        raise _unreadable(text)
    return tree.elts


def _unreadable(text: str) -> SettingError:
    return SettingError(f"{text!r} is not a method; write {EXAMPLE} or, for several, dense,{EXAMPLE},split(ratio=0.5)")


def _method(node: ast.expr, text: str) -> Method | None:
    call = node if isinstance(node, ast.Call) else None
    target = node if call is None else call.func
    if not isinstance(target, ast.Name):
        raise _unreadable(text)
    name = target.id
    if name == DENSE:
        if call is not None and (call.args or call.keywords):
            raise SettingError("dense has no settings; it is the network as it is")
        return None
    if name not in METHODS_BY_NAME:
        raise SettingError(f"unknown method {name!r}{_close(name, NAMES)}; there are {', '.join(NAMES)}")
    kind = METHODS_BY_NAME[name]
    defaults = ", ".join(f"{field.name}={field.default!r}" for field in fields(kind))
    settings: dict[str, Any] = {}
    if call is not None:
        if call.args:
            value = ast.unparse(call.args[0])
            first = fields(kind)[0].name
            raise SettingError(f"{name} takes its settings by name: {name}({first}={value}), not {name}({value})")
        known = [field.name for field in fields(kind)]
        for keyword in call.keywords:
            if keyword.arg is None:
                raise _unreadable(text)
            if keyword.arg not in known:
                hint = _close(keyword.arg, known)
                raise SettingError(f"{name} has no setting {keyword.arg!r}{hint}; it has {defaults}")
            if keyword.arg in settings:
                raise SettingError(f"{name}: {keyword.arg} is given twice; leave one out")
            settings[keyword.arg] = _value(name, keyword.arg, keyword.value)
    try:
        return kind.from_settings(settings)
    except SettingError as error:
        raise SettingError(f"{name}: {error}") from error
    except (TypeError, ValueError):
        shown = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise SettingError(
            f"{name}({shown}) has a value of the wrong kind; by default it is {name}({defaults})"
        ) from None


def _value(method: str, setting: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        shown = ast.unparse(node)
        way_out = "a number, True, False or text in quotes"
        if isinstance(node, ast.Name):
            way_out = f"{setting}={shown.title() if shown in ('true', 'false') else repr(shown)}"
        raise SettingError(f"{method}: {setting}={shown} is not a plain value; write {way_out}") from None


def _close(name: str, known: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
