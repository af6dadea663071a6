"""Checks of settings; each raises a SettingError of one line that names the value and the rule."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from leanconv.core.errors import LeanconvError, SettingError


def check_int(name: str, value: Any, least: int = 1) -> None:
    """Raise SettingError unless `value` is a whole number of at least `least`.

    >>> check_int("blocks", 0)
    Traceback (most recent call last):
    leanconv.core.errors.SettingError: blocks=0 must be a whole number of at least 1
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingError(f"{name}={value!r} must be a whole number of at least {least}")


def check_bool(name: str, value: Any) -> None:
    """Raise SettingError unless `value` is true or false."""
    if not isinstance(value, bool):
        raise SettingError(f"{name}={value!r} must be true or false")


def check_choice(name: str, value: Any, options: tuple[str, ...]) -> None:
    """Raise SettingError unless `value` is one of `options`."""
    if value not in options:
        raise SettingError(f"{name}={value!r} must be {', '.join(map(repr, options[:-1]))} or {options[-1]!r}")


def check_weight(name: str, value: Any) -> None:
    """Raise SettingError unless `value` is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise SettingError(f"{name}={value!r} must be a number of at least 0")


def check_share(name: str, value: Any) -> None:
    """Raise SettingError unless `value` is a number above 0 and at most 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise SettingError(f"{name}={value!r} must be a number above 0 and at most 1")


def check_path(name: str, value: Any, way_out: str = "") -> Path:
    """`value` as a path, with `~` as the home folder, after a check that it is text or a path.

    Args:
        name: the name of the setting, for the error.
        value: what the caller gave.
        way_out: the end of the error, if there is more to say.

    >>> check_path("directory", {})
    Traceback (most recent call last):
    leanconv.core.errors.SettingError: directory is a dict and must be a path, a string or a pathlib.Path
    """
    if not isinstance(value, str | os.PathLike):
        more = f"; {way_out}" if way_out else ""
        raise SettingError(f"{name} is a {type(value).__name__} and must be a path, a string or a pathlib.Path{more}")
    return Path(value).expanduser()


def several(value: Any) -> tuple[Any, ...]:
    """`value` as a tuple; a text, or another single value, is one of a kind of which several may be given.

    >>> several("a"), several(["a", "b"]), several(1)
    (('a',), ('a', 'b'), (1,))
    """
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def check_names(name: str, value: Any, error: type[LeanconvError] = SettingError) -> tuple[str, ...]:
    """`value` as a tuple, after a check that it is a sequence of different, non-empty strings.

    A single string is refused, because its letters would count as names.

    Args:
        name: the name of the setting, for the error.
        error: the class of the error.

    Raises:
        error: `value` is no such sequence.

    >>> check_names("classes", ["cat", "dog"])
    ('cat', 'dog')
    """
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
        raise error(f"{name}={shown} must be a sequence of names, such as ('cat', 'dog')")
    if not all(item.strip() for item in value):
        raise error(f"{name} holds an empty name; name every item")
    twice = next((item for item, count in Counter(value).items() if count > 1), None)
    if twice is not None:
        raise error(f"{name} holds {twice[:80]!r} twice; use different names")
    return tuple(value)
