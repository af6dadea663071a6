"""Names with settings as text, such as ``tied_block(blocks=4)``: parsed with Python's syntax, never evaluated."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leanconv.core.errors import SettingError

NAME = re.compile(r"[A-Za-z_][\w./:@+-]*")
TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[()\[\]{},]""")
UNREADABLE = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)
Settings = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True)
class ParsedCall:
    """A name with its settings; without brackets it has none."""

    name: str
    settings: dict[str, Any]


def parse_call(text: str, what: str, example: str, known: Settings | None = None) -> ParsedCall:
    """The single call in `text`; see `parse_calls` for the arguments and the errors.

    >>> parse_call("timm/resnet50(width=32, act='relu')", "network", "resnet20")
    ParsedCall(name='timm/resnet50', settings={'width': 32, 'act': 'relu'})
    """
    calls = parse_calls(text, what, example, known)
    if len(calls) > 1:
        raise SettingError(f"{text!r} names {len(calls)}; one {what} is wanted here, such as {example}")
    return calls[0]


def parse_calls(text: str, what: str, example: str, known: Settings | None = None) -> list[ParsedCall]:
    """The calls in `text`, separated by commas. Settings are given by name, and their values are Python literals.

    >>> parse_calls("dense, split(ratio=0.5)", "method", "split")
    [ParsedCall(name='dense', settings={}), ParsedCall(name='split', settings={'ratio': 0.5})]

    Args:
        what: the kind of thing that is named, such as "method", for errors.
        example: a valid text, for errors.
        known: returns the settings of a name with their defaults, and raises for an unknown name. None checks no names.

    Raises:
        SettingError: `text` is not such a list, a value is not a literal, or a setting is unknown, unnamed or given twice.
    """
    return [_call(piece, text, what, example, known) for piece in _pieces(text)]


def parse_setting(text: str) -> tuple[str, Any]:
    """The name and the value of ``score_thresh=0.1``.

    >>> parse_setting("score_thresh=0.1")
    ('score_thresh', 0.1)

    Raises:
        SettingError: `text` is not a name, an equals sign and a literal.
    """
    name, _, value = text.partition("=")
    try:
        if name.strip().isidentifier():
            return name.strip(), ast.literal_eval(value.strip())
    except UNREADABLE:
        pass
    raise SettingError(f"{text!r} must be a name and a plain value: score_thresh=0.1")


def close_to(name: str, known: Sequence[str]) -> str:
    """A hint at the name in `known` that is close to `name`; empty when no name is close.

    >>> close_to("tied_blok", ["dense", "tied_block"])
    " (did you mean 'tied_block'?)"
    """
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _pieces(text: str) -> Iterator[str]:
    """`text` split at its commas outside brackets and quotes; a comma at the end is allowed."""
    depth = start = 0
    for token in TOKEN.finditer(text):
        if token[0] == "," and depth == 0:
            yield text[start : token.start()]
            start = token.end()
        elif token[0] in "([{":
            depth += 1
        elif token[0] in ")]}":
            depth -= 1
    if text[start:].strip() or start == 0:
        yield text[start:]


def _call(piece: str, text: str, what: str, example: str, known: Settings | None) -> ParsedCall:
    name, bracket, rest = piece.strip().partition("(")
    name = name.strip()
    unreadable = SettingError(f"{text!r} is not a {what}; write {example}")
    try:
        node = ast.parse(f"f({rest}" if bracket else "f()", mode="eval").body
    except UNREADABLE:
        raise unreadable from None
    if not NAME.fullmatch(name) or not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise unreadable
    if any(keyword.arg is None for keyword in node.keywords):
        raise unreadable
    defaults = None if known is None else known(name)
    if node.args:
        raise _unnamed(name, ast.unparse(node.args[0]), defaults)
    settings: dict[str, Any] = {}
    for keyword in node.keywords:
        setting = str(keyword.arg)
        if defaults is not None and setting not in defaults:
            raise SettingError(f"{name} has no setting {setting!r}{close_to(setting, [*defaults])}; {_has(defaults)}")
        if setting in settings:
            raise SettingError(f"{name}: {setting} is given twice; leave one out")
        settings[setting] = _value(name, setting, keyword.value)
    return ParsedCall(name, settings)


def _unnamed(name: str, value: str, defaults: Mapping[str, Any] | None) -> SettingError:
    if defaults is not None and not defaults:
        return SettingError(f"{name} takes no setting, and {value} is one; leave it out")
    first = "setting" if defaults is None else next(iter(defaults))
    return SettingError(f"{name} takes its settings by name: {name}({first}={value}), not {name}({value})")


def _has(defaults: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{name}={default!r}" for name, default in defaults.items())
    return f"it has {shown}" if shown else "it has none"


def _value(name: str, setting: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except UNREADABLE:
        shown = ast.unparse(node)
        way_out = "a number, True, False or text in quotes"
        if isinstance(node, ast.Name):
            way_out = f"{setting}={shown.title() if shown in ('true', 'false') else repr(shown)}"
        raise SettingError(f"{name}: {setting}={shown} is not a plain value; write {way_out}") from None
