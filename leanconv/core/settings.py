"""Rules that settings of every method share; each raises one line that names the value and the rule."""

from __future__ import annotations

import math
from typing import Any

from leanconv.core.errors import SettingError


def whole(name: str, value: Any, least: int = 1) -> None:
    """`value` must be a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingError(f"{name}={value!r} must be a whole number of at least {least}")


def flag(name: str, value: Any) -> None:
    """`value` must be true or false."""
    if not isinstance(value, bool):
        raise SettingError(f"{name}={value!r} must be true or false")


def one_of(name: str, value: Any, options: tuple[str, ...]) -> None:
    """`value` must be one of `options`."""
    if value not in options:
        raise SettingError(f"{name}={value!r} must be {', '.join(map(repr, options[:-1]))} or {options[-1]!r}")


def weight(name: str, value: Any) -> None:
    """`value` must be a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise SettingError(f"{name}={value!r} must be a number of at least 0")
