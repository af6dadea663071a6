"""Rules that settings of every method share; each raises one line that names the value and the rule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from leanconv.core.errors import SettingError


def check_int(name: str, value: Any, least: int = 1) -> None:
    """`value` must be a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingError(f"{name}={value!r} must be a whole number of at least {least}")


def check_bool(name: str, value: Any) -> None:
    """`value` must be true or false."""
    if not isinstance(value, bool):
        raise SettingError(f"{name}={value!r} must be true or false")


def check_choice(name: str, value: Any, options: tuple[str, ...]) -> None:
    """`value` must be one of `options`."""
    if value not in options:
        raise SettingError(f"{name}={value!r} must be {', '.join(map(repr, options[:-1]))} or {options[-1]!r}")


def check_weight(name: str, value: Any) -> None:
    """`value` must be a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise SettingError(f"{name}={value!r} must be a number of at least 0")


def check_names(name: str, value: Any) -> None:
    """`value` must be a sequence of texts, each another; a text alone would count as its letters."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable) or not all(isinstance(v, str) for v in value):
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
        raise SettingError(f"{name}={shown} must be a sequence of names, such as ({name[:1]!r}, ...)")
    seen: set[str] = set()
    for item in value:
        if item in seen:
            raise SettingError(f"{name} holds {item[:80]!r} twice; give each its own name")
        seen.add(item)
