"""Names with settings as text."""

from __future__ import annotations

import pytest

from leanconv.core.calls import ParsedCall, parse_call, parse_calls, parse_setting
from leanconv.core.errors import SettingError


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("a", [ParsedCall("a", {})]),
        (" a ( ) , ", [ParsedCall("a", {})]),
        ("timm/hf-hub:org/x.y@z(n=1)", [ParsedCall("timm/hf-hub:org/x.y@z", {"n": 1})]),
        (
            'a(t=\'x,y)\', u="(\\""),b(v=(1, [2, 3]))',
            [ParsedCall("a", {"t": "x,y)", "u": '("'}), ParsedCall("b", {"v": (1, [2, 3])})],
        ),
        ("a(n=-1, f=None)", [ParsedCall("a", {"n": -1, "f": None})]),
    ],
)
def test_reads(text: str, calls: list[ParsedCall]) -> None:
    assert parse_calls(text, "thing", "a(n=1)") == calls


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "a b",
        "a)",
        "a('",
        "a(n=1))",
        "a(n=1)+1",
        "a(n=1).b",
        "a(n=1)[0]",
        "a(n=1",
        "a;b",
        "a(n=1);b",
        "é" * 3,
        "a\0",
    ],
)
def test_what_is_no_call_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SettingError, match=r"is not a thing; write a\(n=1\)"):
        parse_calls(text, "thing", "a(n=1)")


@pytest.mark.parametrize(
    "value", ["open('x')", "[x for x in y]", "f'{x}'", "lambda: 1", "a.b", "1 if 1 else 2", "x := 1"]
)
def test_nothing_but_literals_is_read(value: str) -> None:
    with pytest.raises(SettingError, match=r"is not a plain value|is not a thing"):
        parse_call(f"a(n={value})", "thing", "a(n=1)")
    with pytest.raises(SettingError, match="must be a name and a plain value"):
        parse_setting(f"n={value}")


def test_a_setting_is_a_name_and_a_literal() -> None:
    assert parse_setting("x = (1, 2)") == ("x", (1, 2))
    for text in ("", "x", "x=", "=1", "x y=1"):
        with pytest.raises(SettingError, match="must be a name and a plain value"):
            parse_setting(text)
