"""Reading of untrusted files: every error that their contents cause becomes one error, on one line."""

from __future__ import annotations

import codecs
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from leanconv.core.errors import FileError, LeanconvError, first_line

LONGEST = 600  # characters of an error; a hostile value may have a megabyte
LARGEST = 4096  # bits of a whole number; the limit of Python is about three times higher
DEEPEST = 64  # nested levels of lists and objects

MARKS = (  # byte order marks; the mark of UTF-32 begins with that of UTF-16, so it comes first
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def encoding_of(data: bytes) -> str:
    r"""The encoding of a text: that of its byte order mark, else UTF-8.

    >>> encoding_of(b"\xef\xbb\xbfcat")
    'utf-8-sig'
    """
    return next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")


@contextmanager
def reading(
    path: str | os.PathLike[str],
    way_out: str = "save or copy it again",
    error: type[LeanconvError] = FileError,
) -> Iterator[None]:
    """Turn any exception in the block into one `error` that names the file and the way out.

    An exception that already is an `error` passes. The cause is chained, so that the traceback still shows a fault in
    leanconv.

    Args:
        path: the file that the block reads.
        way_out: the end of the message.
        error: the class of the error.

    Raises:
        error: the block raised an exception.
    """
    name = Path(path).name or str(path)
    try:
        yield
    except error as cause:
        text = one_line(str(cause))
        if text == str(cause):
            raise
        raise error(text) from cause
    except LeanconvError as cause:
        raise error(one_line(f"{name}: {cause}")) from cause
    except RecursionError as cause:
        raise error(f"{name} nests too deeply; {way_out}") from cause
    except MemoryError as cause:
        raise error(f"{name} asks for more memory than there is; {way_out}") from cause
    except Exception as cause:  # parsers and builders raise exceptions of any class
        raise error(
            one_line(f"{name} cannot be read ({type(cause).__name__}: {first_line(cause)}); {way_out}")
        ) from cause


def one_line(text: str) -> str:
    """`text` on one line of at most about `LONGEST` characters; the end is kept, because it names the way out."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 200]} ... {text[-190:]}"


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. NaN, infinity, numbers beyond a float and more than `DEEPEST` levels are refused.

    Raises:
        ValueError: `text` is not such a JSON text.

    >>> parse_json('{"epochs": 3}')
    {'epochs': 3}
    """
    try:
        found = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"it nests over {DEEPEST} levels") from None
    return _shallow(found)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text of plain values with at most `DEEPEST` levels.

    Aliases are refused, because a short text with aliases can expand to exponentially many values.

    Raises:
        ValueError: `text` is not such a YAML text.

    >>> parse_yaml("epochs: 3")
    {'epochs': 3}
    """
    import yaml

    try:
        for depth in _depths(yaml.parse(text, Loader=yaml.SafeLoader)):
            if depth > DEEPEST:
                raise ValueError(f"it nests over {DEEPEST} levels")
        return _shallow(yaml.safe_load(text))
    except (yaml.YAMLError, RecursionError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no YAML ({one_line(str(error))})") from error


def _depths(events: Iterator[Any]) -> Iterator[int]:
    """The nesting depth of each event of the parser."""
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has an alias, which leanconv does not read")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        yield depth


def _shallow(found: Any) -> Any:
    """`found` itself, after a check that it has at most `DEEPEST` levels and no number over `LARGEST` bits."""
    for level in levels(found):
        if any(isinstance(node, int) and node.bit_length() > LARGEST for node in level):
            raise ValueError(f"it has a whole number of over {LARGEST} bits")
    return found


def levels(value: Any, deepest: int = DEEPEST) -> Iterator[list[Any]]:
    """The values of each nesting level: `value` itself, then the keys and items of its lists, tuples and dicts, and so on.

    Raises:
        ValueError: `value` has more than `deepest` levels.

    >>> list(levels([1, [2]]))
    [[[1, [2]]], [1, [2]], [2]]
    """
    level = [value]
    for _ in range(deepest):
        yield level
        inner: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                inner += [*node.keys(), *node.values()]
            elif isinstance(node, list | tuple):
                inner += node
        if not inner:
            return
        level = inner
    raise ValueError(f"it nests over {deepest} levels")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond what a float holds")
    return value
