"""Settings that are declared once: a name, a type, a default, a rule and a sentence of help.

The flags of the command line and the check of a configuration file come from this declaration. This module imports
nothing that is slow to load, because ``--help`` imports it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from functools import cache
from types import NoneType
from typing import Any, Literal, Self, dataclass_transform, get_args, get_origin, get_type_hints

from leanconv.core.errors import SettingError

METADATA = "leanconv"
LARGEST_SEED = 2**64 - 1  # that torch takes


@dataclass(frozen=True)
class Setting:
    """One setting: its name, its rule, its default and its help.

    Args:
        kind: bool, int, float, str, tuple or a Literal.
        item: the kind of a tuple's entries.
        optional: whether None is allowed too.
        help: one sentence.
        least, above, most, below: bounds of a number, or of each number of a tuple.
    """

    name: str = ""
    kind: Any = None
    item: Any = None
    optional: bool = False
    default: Any = None
    help: str = ""
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    @property
    def rule(self) -> str:
        """The rule for a value, in words.

        >>> Setting("epochs", int, least=1).rule
        'a whole number of at least 1'
        """
        text = f"a list, each entry {self._kind_rule(self.item)}" if self.kind is tuple else self._kind_rule(self.kind)
        return f"{text}, or None" if self.optional else text

    def _kind_rule(self, kind: Any) -> str:
        if get_origin(kind) is Literal:
            *first, last = map(repr, get_args(kind))
            return f"{', '.join(first)} or {last}" if first else last
        return {bool: "true or false", str: "a text"}.get(kind) or self._number_rule(kind)

    def _number_rule(self, kind: Any) -> str:
        bounds = {"of at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        said = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
        return f"{'a whole number' if kind is int else 'a number'} {said}".rstrip()

    def checked(self, value: Any) -> Any:
        """`value` in the type of this setting: for a float an int becomes a float, for a tuple a list becomes a tuple.

        Raises:
            SettingError: `value` breaks the rule.
        """
        if value is None and self.optional:
            return None
        try:
            return self._several(value) if self.kind is tuple else self._one(self.kind, value)
        except (TypeError, ValueError, OverflowError):
            raise SettingError(f"{self.name}={value!r} must be {self.rule}") from None

    def _several(self, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str | Mapping):
            raise TypeError
        return tuple(self._one(self.item, entry) for entry in value)

    def _one(self, kind: Any, value: Any) -> Any:
        if kind in (int, float):
            return self._number(kind, value)
        if not (value in get_args(kind) if get_origin(kind) is Literal else isinstance(value, kind)):
            raise TypeError
        return value

    def _number(self, kind: Any, value: Any) -> Any:
        """`value` as a number within the bounds. A text is parsed too, because ``5e-4`` without a point is a text in YAML."""
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
        if not math.isfinite(number) or (kind is int and not number.is_integer()):
            raise ValueError
        number = int(value) if kind is int else number
        low = (self.least is not None and number < self.least) or (self.above is not None and number <= self.above)
        if low or (self.most is not None and number > self.most) or (self.below is not None and number >= self.below):
            raise ValueError
        return number


def setting(
    help: str,
    *,
    default: Any,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> Any:
    """A field of a `Config` with its default, its help and its bounds; see `Setting`.

    The default is a keyword because type checkers expect this.
    """
    declared = Setting(default=default, help=help, least=least, above=above, most=most, below=below)
    return field(default=default, metadata={METADATA: declared})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting,))
class Config:
    """Base class of frozen, checked settings. Each subclass is a dataclass whose fields `setting` declares.

    A subclass may give a field of its base another default (``lr: float = 0.02``); the field keeps its rule and help.

    >>> from leanconv.train import TrainConfig
    >>> TrainConfig(epochs=3).replace(lr=0.2).epochs
    3
    >>> TrainConfig(epochs=0)
    Traceback (most recent call last):
    leanconv.core.errors.SettingError: epochs=0 must be a whole number of at least 1

    Raises:
        SettingError: an unknown setting, or a value that breaks its rule.
    """

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def __new__(cls, **settings: Any) -> Self:
        check_known(settings, cls.settings())
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, declared in self.settings().items():
            object.__setattr__(self, name, declared.checked(getattr(self, name)))
        self._check_together()

    def _check_together(self) -> None:
        """Raise SettingError for settings that contradict each other."""

    @classmethod
    def settings(cls) -> dict[str, Setting]:
        """The declaration of each setting, by name."""
        kind: Any = cls  # mypy confuses the __hash__ of the class with the __hash__ of its instances
        return _settings(kind)

    def replace(self, **settings: Any) -> Self:
        """A copy with some settings changed; the copy is checked again."""
        return type(self)(**{**vars(self), **settings})

    def to_json(self) -> dict[str, Any]:
        """The settings as values of JSON and YAML."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def check_known(names: Mapping[str, Any], known: Mapping[str, Any], owner: str = "") -> None:
    """Raise SettingError for the first of `names` that is not `known`."""
    for name, value in names.items():
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            valid = f"did you mean {close[0]}?" if close else f"valid are {', '.join(known)}"
            raise SettingError(f"{owner}{name}={value!r}: no such setting; {valid}")


@cache
def _settings(cls: type[Config]) -> dict[str, Setting]:
    kinds = get_type_hints(cls)
    return {own.name: _complete(cls, own, kinds[own.name]) for own in fields(cls)}  # type: ignore[arg-type]


def _complete(cls: type[Config], own: Field[Any], kind: Any) -> Setting:
    """The declaration of one field, in `cls` or in the nearest base that declares more than a default."""
    found = own.metadata.get(METADATA)
    for base in cls.__mro__[1:] if found is None else ():
        inherited = getattr(base, "__dataclass_fields__", {}).get(own.name)
        if inherited is not None and METADATA in inherited.metadata:
            found = inherited.metadata[METADATA]
            break
    assert found is not None, f"{cls.__name__}.{own.name} is not declared with setting()"
    parts = get_args(kind) if NoneType in get_args(kind) else (kind,)
    (kind,) = (part for part in parts if part is not NoneType)
    item = get_args(kind)[0] if get_origin(kind) is tuple else None
    return replace(
        found,
        name=own.name,
        kind=kind if item is None else tuple,
        item=item,
        optional=len(parts) > 1,
        default=own.default,
    )
