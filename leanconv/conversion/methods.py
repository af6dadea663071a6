"""Methods as text, such as ``tied_block(blocks=4)``: parsed, never evaluated."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from leanconv.core.calls import ParsedCall, close_to, parse_calls
from leanconv.core.errors import SettingError
from leanconv.core.method import DENSE, Method
from leanconv.ops import find_method, list_methods

EXAMPLE = "tied_block(blocks=2)"


def parse_methods(text: str) -> dict[str, Method | None]:
    """The methods in `text`, separated by commas, by their labels; ``dense`` is None.

    Raises:
        SettingError: `text` is not such a list, a method or setting is unknown, a method refuses a value, or a method occurs
            twice.

    >>> parse_methods("dense, tied_block(blocks=4)")
    {'dense': None, 'tied_block(blocks=4)': TiedBlock(blocks=4)}
    """
    example = f"{EXAMPLE} or, for several, dense,{EXAMPLE},split(ratio=0.5)"
    methods: dict[str, Method | None] = {}
    for call in parse_calls(text, "method", example, _settings_of):
        method = _method(call)
        label = label_of(method)
        if label in methods:
            raise SettingError(f"{label} is given twice; leave one out")
        methods[label] = method
    return methods


def parse_method(text: str) -> Method | None:
    """The single method in `text`; None for ``dense``.

    Raises:
        SettingError: `text` is not a method, or there are several methods.

    >>> parse_method("tied_block")
    TiedBlock(blocks=2)
    """
    methods = parse_methods(text)
    if len(methods) > 1:
        raise SettingError(
            f"one method is wanted here, and {text!r} has {len(methods)}; `leanconv compare` takes several"
        )
    return next(iter(methods.values()))


def label_of(method: Method | None) -> str:
    """The label of a method in tables: its canonical text; "dense" for None."""
    return DENSE if method is None else method.label()


def _settings_of(name: str) -> dict[str, Any]:
    """The settings of a method with their defaults; ``dense`` has none."""
    if name == DENSE:
        return {}
    try:
        kind = find_method(name)
    except SettingError:
        names = (DENSE, *list_methods())
        raise SettingError(f"unknown method {name!r}{close_to(name, names)}; there are {', '.join(names)}") from None
    return {field.name: field.default for field in fields(kind)}


def _method(call: ParsedCall) -> Method | None:
    if call.name == DENSE:
        return None
    try:
        return find_method(call.name).from_settings(call.settings)
    except SettingError as error:
        raise SettingError(f"{call.name}: {error}") from error
    except (TypeError, ValueError):
        given = ", ".join(f"{key}={value!r}" for key, value in call.settings.items())
        defaults = ", ".join(f"{key}={value!r}" for key, value in _settings_of(call.name).items())
        raise SettingError(
            f"{call.name}({given}) has a value of the wrong kind; by default it is {call.name}({defaults})"
        ) from None
