"""Text that other programs wrote: any Unicode encoding that says so, any line ends; and files that are files."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from leanconv.core.errors import DataError

MOST = 4 * 1024**3  # bytes of a text file
MARKS = (  # of the byte order; UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


@contextlib.contextmanager
def open_regular(path: str | os.PathLike[str], way_out: str, most: int = MOST) -> Iterator[BinaryIO]:
    """A regular file, to be read; a pipe or a device, which may never end, is refused, also behind a link.

    Raises:
        DataError: it cannot be read, is no regular file, or has more than `most` bytes.
    """
    try:
        # opening a pipe would wait for its writer
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise DataError(f"{_shown(path)}: {getattr(error, 'strerror', None) or error}; {way_out}") from error
    try:
        facts = os.fstat(number)
        if not stat.S_ISREG(facts.st_mode):
            raise DataError(f"{_shown(path)}: no regular file but a {_kind(facts.st_mode)}; {way_out}")
        if facts.st_size > most:
            raise DataError(f"{_shown(path)}: {facts.st_size:,} bytes are more than {most:,}; {way_out}")
    except BaseException:
        os.close(number)
        raise
    with open(number, "rb") as file:
        yield file


def read_bytes(path: str | os.PathLike[str], way_out: str, most: int = MOST) -> bytes:
    """The bytes of a regular file, as `open_regular` opens it."""
    with open_regular(path, way_out, most) as file:
        try:
            return file.read(most + 1)
        except OSError as error:
            raise DataError(f"{_shown(path)}: {error.strerror or error}; {way_out}") from error


def text_of(data: bytes, name: str, way_out: str = "save it as UTF-8") -> str:
    """UTF-8, or what a byte order mark announces.

    Raises:
        DataError: it is no such text.
    """
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise DataError(f"{name}: not a text file in UTF-8; {way_out}") from None
    if "\0" in text or (encoding.startswith("utf-16") and not text):
        raise DataError(f"{name}: not a text file; {way_out}")
    return text


def lines_of(data: bytes, name: str, way_out: str = "save it as UTF-8") -> list[str]:
    """Its lines without their ends, whichever system's they are."""
    return re.split(r"\r\n|\n|\r", text_of(data, name, way_out))


def read_lines(path: Path, way_out: str) -> list[str]:
    """The lines of a text file."""
    return lines_of(read_bytes(path, way_out), str(path), way_out)


def json_of(data: bytes, name: str, way_out: str = "fetch or write it again") -> Any:
    """What JSON holds; NaN and Infinity arrive as floats, and whoever reads a field looks at it.

    Raises:
        DataError: it is no JSON.
    """
    try:
        return json.loads(text_of(data, name, way_out))
    except RecursionError:
        raise DataError(f"{name}: not whole json (nested too deep); {way_out}") from None
    except ValueError as error:
        where = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{name}: not whole json{where}; {way_out}") from None


def label_names(data: bytes, name: str) -> tuple[str, ...]:
    """The names of a network's outputs, one a line; empty lines are left out.

    Raises:
        DataError: it is no text, or another format.
    """
    way_out = "save it as UTF-8 text, one name a line"
    names = tuple(stripped for line in lines_of(data, name, way_out) if (stripped := line.strip()))
    if not names:
        raise DataError(f"{name}: no name in it; {way_out}")
    if names[0][0] in "[{":
        raise DataError(f"{name}: looks like JSON ({names[0][:20]!r}); {way_out}")
    return names


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
    return next((kind for test, kind in kinds if test(mode)), "device")


def _shown(path: str | os.PathLike[str]) -> str:
    """The path on one line."""
    return " ".join(os.fsdecode(path).splitlines()) or repr(path)
