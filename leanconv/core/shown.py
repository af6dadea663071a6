"""Names and messages from outside, as they may be shown: in a terminal, in Markdown and in figures."""

from __future__ import annotations

import contextlib
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIDDEN = ("Cc", "Cs", "Co", "Zl", "Zp")  # control characters, halves of a pair, private ones, line separators
# what turns the direction of a text round, or takes no width (Unicode TR 36, "Visual security issues")
INVISIBLE = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
MARKS = re.compile(r"[\\`*|~$\[\]<&]|^[>#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def plain(text: str) -> str:
    """`text` on one line; characters that hide, move the cursor or turn the direction of writing are written as escapes."""
    line = " ".join(text.split())
    return "".join(_escape(c) if INVISIBLE.match(c) or unicodedata.category(c) in HIDDEN else c for c in line)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def short(text: str, most: int = 60) -> str:
    """`plain`, and of a long text its beginning and its end."""
    line = plain(text)
    return line if len(line) <= most else f"{line[: most - most // 3 - 1]}…{line[-(most // 3) :]}"


def first_names(names: Sequence[str], most: int = 3) -> str:
    """The first names, quoted, and how many more there are.

    >>> first_names(["a", "b", "c", "d", "e"])
    "'a', 'b', 'c' and 2 more"
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def markdown(text: str) -> str:
    """`plain`, with nothing in it that Markdown or HTML would read."""
    entities = {"<": "&lt;", "&": "&amp;"}
    return MARKS.sub(lambda found: entities.get(found[0], f"\\{found[0]}"), plain(text))


def code(text: str) -> str:
    """`plain`, as code in Markdown, with more backticks around than it holds."""
    line = plain(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    edge = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{edge}{line}{edge}{fence}"


@contextlib.contextmanager
def literal(figure: Figure) -> Iterator[None]:
    """Within the block a figure is drawn with its texts as they are: no formulas between $, no warning of a missing glyph.

    The ticks' own texts stay: matplotlib makes powers of ten from formulas.
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
