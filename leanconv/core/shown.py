"""Untrusted names and messages in a form that is safe to show in a terminal, in Markdown and in figures."""

from __future__ import annotations

import contextlib
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIDDEN = ("Cc", "Cs", "Co", "Zl", "Zp")  # control characters, surrogates, private characters, line separators
# characters that change the direction of a text or have no width (Unicode TR 36, "Visual security issues")
INVISIBLE = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
MARKS = re.compile(r"[\\`*|~$\[\]<&]|^[>#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def plain(text: str) -> str:
    r"""`text` on one line; invisible and control characters, and characters that change the direction, become escapes.

    >>> plain("a\tb\x1b[2J")
    'a b\\x1b[2J'
    """
    line = " ".join(text.split())
    return "".join(_escape(c) if INVISIBLE.match(c) or unicodedata.category(c) in HIDDEN else c for c in line)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def short(text: str, most: int = 60) -> str:
    """`plain`, shortened to at most `most` characters: the beginning and the end of the text.

    >>> short("a" * 10 + "z" * 10, 9)
    'aaaaa…zzz'
    """
    line = plain(text)
    return line if len(line) <= most else f"{line[: most - most // 3 - 1]}…{line[-(most // 3) :]}"


def first_names(names: Sequence[str], most: int = 3) -> str:
    """The first `most` names, quoted, and the number of further names.

    >>> first_names(["a", "b", "c", "d", "e"])
    "'a', 'b', 'c' and 2 more"
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def kind(value: object) -> str:
    """What a value of a caller is, for an error: dtype and shape, a number or a text itself, the keys of a dict, or its class.

    >>> import torch
    >>> kind(torch.zeros(2, 3)), kind(0.7), kind({"image": 1}), kind((1, 2))
    ('torch.float32 (2, 3)', '0.7', "a dict of 'image'", 'a tuple of 2')
    """
    if value is None or isinstance(value, int | float | str):
        return short(repr(value))
    name = type(value).__name__
    if isinstance(value, Mapping):
        return f"a {name} of {first_names([short(str(key)) for key in value])}"
    if isinstance(value, tuple | list):
        return f"a {name} of {len(value)}"
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is None or not isinstance(shape, tuple):
        return f"a {name}"
    return f"{'' if str(dtype).startswith('torch.') else 'numpy.'}{dtype} {tuple(shape)}"


def markdown(text: str) -> str:
    r"""`plain`, with all special characters of Markdown and HTML escaped.

    >>> markdown("a*b")
    'a\\*b'
    """
    entities = {"<": "&lt;", "&": "&amp;"}
    return MARKS.sub(lambda found: entities.get(found[0], f"\\{found[0]}"), plain(text))


def code(text: str) -> str:
    """`plain` as code in Markdown, in a longer fence of backticks than any in the text.

    >>> code("a`b")
    '``a`b``'
    """
    line = plain(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    edge = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{edge}{line}{edge}{fence}"


@contextlib.contextmanager
def literal(figure: Figure) -> Iterator[None]:
    """Within the block, the texts of `figure` are drawn literally: no formulas between $, no warning of a missing glyph.

    The labels of ticks are unchanged, because matplotlib draws powers of ten as formulas.
    """
    from matplotlib.text import Text

    axes = [axis for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    ticks = {id(text) for axis in axes for text in (*axis.get_ticklabels(), *axis.get_ticklabels(minor=True))}
    for text in figure.findobj(Text):
        if id(text) not in ticks:
            text.set_parse_math(False)
            text.set_text("\n".join(map(plain, text.get_text().split("\n"))))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield
