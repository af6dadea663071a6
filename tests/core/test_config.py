"""Settings that are declared once."""

from __future__ import annotations

import copy
import pickle
from typing import Any, Literal

import pytest

from leanconv.core.config import Config, setting
from leanconv.core.errors import SettingError


class Base(Config):
    size: int = setting("How large.", default=3, least=1, most=9)
    kind: Literal["a", "b"] = setting("Which one.", default="a")
    parts: tuple[float, ...] = setting("Where.", default=(0.5,), above=0)
    share: float | None = setting("How much.", default=None, least=0, below=1)
    on: bool = setting("Whether.", default=True)
    name: str = setting("What it is called.", default="x")


class Derived(Base):
    size: int = 4
    kind: Literal["b"] = "b"  # type: ignore[assignment]
    more: int = setting("One more.", default=0, least=0)

    def _check_together(self) -> None:
        if self.more > self.size:
            raise SettingError("too many")


def test_a_value_is_held_as_its_kind() -> None:
    made = Base(size=2.0, parts=[1, 2], share=0)  # type: ignore[arg-type]
    assert (made.size, made.parts, made.share) == (2, (1.0, 2.0), 0.0)
    assert [type(value) for value in (made.size, made.parts[0], made.share)] == [int, float, float]
    assert Base(share="2.5e-1").share == 0.25, "a number without a point is text in YAML"  # type: ignore[arg-type]
    assert made == Base(**made.to_json()) and made.to_json()["parts"] == [1.0, 2.0]
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made and hash(made) == hash(copy.copy(made))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 10}, "size=10 must be a whole number of at least 1 and at most 9"),
        ({"size": 2.5}, "size=2.5 must be a whole number of at least 1 and at most 9"),
        ({"size": None}, "size=None must be a whole number of at least 1 and at most 9"),
        ({"kind": "c"}, "kind='c' must be 'a' or 'b'"),
        ({"kind": ["a"]}, "kind=['a'] must be 'a' or 'b'"),
        ({"parts": [1, 0]}, "parts=[1, 0] must be a list, each entry a number above 0"),
        ({"parts": {"a": 1}}, "parts={'a': 1} must be a list, each entry a number above 0"),
        ({"share": 1}, "share=1 must be a number of at least 0 and below 1, or None"),
        ({"share": float("inf")}, "share=inf must be a number of at least 0 and below 1, or None"),
        ({"on": 1}, "on=1 must be true or false"),
        ({"name": 3}, "name=3 must be a text"),
        ({"sise": 3}, "sise=3: no such setting; did you mean size?"),
        ({"zzz": 3}, "zzz=3: no such setting; valid are size, kind, parts, share, on, name"),
    ],
)
def test_the_error_names_the_value_and_the_rule(settings: dict[str, Any], message: str) -> None:
    for make in (Base, Base().replace):
        with pytest.raises(SettingError) as caught:
            make(**settings)
        assert str(caught.value) == message


def test_a_subclass_changes_defaults_and_keeps_rules() -> None:
    declared = Derived.settings()
    assert list(declared) == ["size", "kind", "parts", "share", "on", "name", "more"]
    assert (declared["size"].default, declared["size"].help, declared["size"].rule) == (
        4,
        "How large.",
        Base.settings()["size"].rule,
    )
    assert declared["kind"].rule == "'b'" and Base.settings()["size"].default == 3
    with pytest.raises(SettingError, match="size=0 must be"):
        Derived(size=0)
    with pytest.raises(SettingError, match="too many"):
        Derived().replace(more=5)
