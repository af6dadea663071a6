"""One boundary for files that others wrote: whatever their contents raise becomes one error, in one line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from leanconv.core.errors import FileError, LeanconvError, first_line

LONGEST = 600  # characters of an error; a hostile value may be a megabyte long
LARGEST = 4096  # bits of a whole number; Python writes and reads some three times as many
DEEPEST = 64  # levels of lists and objects inside each other


@contextmanager
def reading(
    path: str | os.PathLike[str],
    way_out: str = "save or copy it again",
    error: type[LeanconvError] = FileError,
) -> Iterator[None]:
    """Turn what the contents of `path` raise inside the block into one `error` that names the file and the way out.

    Of leanconv's own errors those of this kind pass, and the others become it. The cause is chained, so that a fault of
    leanconv's is not hidden from whoever looks.

    Raises:
        error: anything but an interruption was raised.
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
    except Exception as cause:  # what parsers and builders raise is unbounded
        raise error(
            one_line(f"{name} cannot be read ({type(cause).__name__}: {first_line(cause)}); {way_out}")
        ) from cause


def one_line(text: str) -> str:
    """`text` in one line of bounded length, its end kept: the way out stands there."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 200]} ... {text[-190:]}"


def parse_json(text: str | bytes) -> Any:
    """JSON as the standard has it: no NaN, no infinity, no number beyond a float, nothing nested over `DEEPEST` levels.

    Raises:
        ValueError: anything else.
    """
    try:
        found = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"it nests over {DEEPEST} levels") from None
    return _shallow(found)


def parse_yaml(text: str) -> Any:
    """YAML of plain values, without aliases, which may stand for exponentially many, and not nested over `DEEPEST` levels.

    Raises:
        ValueError: anything else.
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
    """How deep each of the parser's events stands."""
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has an alias, which leanconv's own files have not")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        yield depth


def _shallow(found: Any) -> Any:
    """`found` itself, where it nests no deeper than `DEEPEST` levels and Python writes all its numbers."""
    for level in levels(found):
        if any(isinstance(node, int) and node.bit_length() > LARGEST for node in level):
            raise ValueError(f"it has a whole number of over {LARGEST} bits")
    return found


def levels(value: Any, deepest: int = DEEPEST) -> Iterator[list[Any]]:
    """`value`, then the values and keys inside its lists, tuples and dicts, then those inside these, and so on.

    Raises:
        ValueError: there are more than `deepest` levels.
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
