"""Methods as text, such as ``tied_block(blocks=4)``: parsed, never evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from leanconv.core.calls import ParsedCall, close_to, parse_calls
from leanconv.core.errors import SettingError
from leanconv.core.method import DENSE, Method, NamedSettings
from leanconv.ops import find_method, list_methods

Other = TypeVar("Other", bound=NamedSettings)
EXAMPLE = "tied_block(blocks=2)"


def parse_methods(
    text: str, others: Mapping[str, type[Other]] = MappingProxyType({})
) -> dict[str, Method | Other | None]:
    """The methods in `text`, separated by commas, by their labels; ``dense`` is None.

    Args:
        text: the methods.
        others: classes by name that may take the place of a method.

    Raises:
        SettingError: `text` is not such a list, a method or setting is unknown, a method refuses a value, or a method occurs
            twice.

    >>> parse_methods("dense, tied_block(blocks=4)")
    {'dense': None, 'tied_block(blocks=4)': TiedBlock(blocks=4)}
    """
    example = f"{EXAMPLE} or, for several, dense,{EXAMPLE},split(ratio=0.5)"
    methods: dict[str, Method | Other | None] = {}
    for call in parse_calls(text, "method", example, partial(_settings_of, others)):
        method = _method(call, others)
        label = label_of(method)
        if label in methods:
            raise SettingError(f"{label} is given twice; leave one out")
        methods[label] = method
    return methods


def parse_method(text: str, others: Mapping[str, type[Other]] = MappingProxyType({})) -> Method | Other | None:
    """The single method in `text`; None for ``dense``; `others` as in `parse_methods`.

    Raises:
        SettingError: `text` is not a method, or there are several methods.

    >>> parse_method("tied_block")
    TiedBlock(blocks=2)
    """
    methods = parse_methods(text, others)
    if len(methods) > 1:
        raise SettingError(
            f"one method is wanted here, and {text!r} has {len(methods)}; `leanconv compare` takes several"
        )
    return next(iter(methods.values()))


def label_of(method: NamedSettings | None) -> str:
    """The label of a method in tables: its canonical text; "dense" for None."""
    return DENSE if method is None else method.label()


def _settings_of(others: Mapping[str, type[NamedSettings]], name: str) -> dict[str, Any]:
    """The settings of a method with their defaults; ``dense`` has none."""
    if name == DENSE:
        return {}
    try:
        kind = others[name] if name in others else find_method(name)
    except SettingError:
        names = (DENSE, *list_methods(), *others)
        raise SettingError(f"unknown method {name!r}{close_to(name, names)}; there are {', '.join(names)}") from None
    return {field.name: field.default for field in fields(kind)}


def _method(call: ParsedCall, others: Mapping[str, type[Other]]) -> Method | Other | None:
    if call.name == DENSE:
        return None
    try:
        kind = others[call.name] if call.name in others else find_method(call.name)
        return kind.from_settings(call.settings)
    except SettingError as error:
        raise SettingError(f"{call.name}: {error}") from error
    except (TypeError, ValueError):
        given = ", ".join(f"{key}={value!r}" for key, value in call.settings.items())
        defaults = ", ".join(f"{key}={value!r}" for key, value in _settings_of(others, call.name).items())
        raise SettingError(
            f"{call.name}({given}) has a value of the wrong kind; by default it is {call.name}({defaults})"
        ) from None
