"""Read text files of other programs, in any Unicode encoding and with any line ends. Pipes and devices are refused."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from leanconv.core.errors import DataError
from leanconv.core.reading import encoding_of

MOST = 4 * 1024**3  # largest text file, in bytes


@contextlib.contextmanager
def open_regular(path: str | os.PathLike[str], way_out: str, most: int = MOST) -> Iterator[BinaryIO]:
    """Open a regular file for reading. A pipe or a device is refused, because it may never end.

    Args:
        path: the file, or a link to it.
        way_out: the end of an error text: what the user can do.
        most: largest size in bytes.

    Raises:
        DataError: the file cannot be read, is not a regular file, or has more than `most` bytes.
    """
    try:
        # without O_NONBLOCK, opening a pipe would wait for its writer
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise DataError(f"{_shown(path)}: {getattr(error, 'strerror', None) or error}; {way_out}") from error
    try:
        facts = os.fstat(number)
        if not stat.S_ISREG(facts.st_mode):
            raise DataError(f"{_shown(path)}: a {_kind(facts.st_mode)} and not a regular file; {way_out}")
        if facts.st_size > most:
            raise DataError(f"{_shown(path)}: {facts.st_size:,} bytes are more than {most:,}; {way_out}")
    except BaseException:
        os.close(number)
        raise
    with open(number, "rb") as file:
        yield file


def read_bytes(path: str | os.PathLike[str], way_out: str, most: int = MOST) -> bytes:
    """The bytes of a regular file; arguments and errors as for `open_regular`."""
    with open_regular(path, way_out, most) as file:
        try:
            return file.read(most + 1)
        except OSError as error:
            raise DataError(f"{_shown(path)}: {error.strerror or error}; {way_out}") from error


def text_of(data: bytes, name: str, way_out: str = "save it as UTF-8") -> str:
    r"""Decode UTF-8, or the encoding of the byte order mark.

    >>> text_of(b"caf\xc3\xa9", "names.txt")
    'café'

    Args:
        data: the bytes of the file.
        name: what an error calls the file.
        way_out: the end of an error text: what the user can do.

    Raises:
        DataError: the bytes are not such a text.
    """
    encoding = encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise DataError(f"{name}: not a text file in UTF-8; {way_out}") from None
    if "\0" in text or (encoding.startswith("utf-16") and not text):
        raise DataError(f"{name}: not a text file; {way_out}")
    return text


def lines_of(data: bytes, name: str, way_out: str = "save it as UTF-8") -> list[str]:
    r"""The lines of a text without their ends; the line ends of all systems count. Arguments as for `text_of`.

    >>> lines_of(b"cat\r\ndog", "names.txt")
    ['cat', 'dog']
    """
    return re.split(r"\r\n|\n|\r", text_of(data, name, way_out))


def read_lines(path: Path, way_out: str) -> list[str]:
    """The lines of a text file."""
    return lines_of(read_bytes(path, way_out), str(path), way_out)


def json_of(data: bytes, name: str, way_out: str = "fetch or write it again") -> Any:
    """The value in a JSON file. NaN and Infinity become floats, so the code that reads a field must check it.

    Args:
        data, name, way_out: see `text_of`.

    Raises:
        DataError: the bytes are not JSON.
    """
    try:
        return json.loads(text_of(data, name, way_out))
    except RecursionError:
        raise DataError(f"{name}: not complete JSON (nested too deep); {way_out}") from None
    except ValueError as error:
        where = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{name}: not complete JSON{where}; {way_out}") from None


def label_names(data: bytes, name: str) -> tuple[str, ...]:
    """The class names in a text file with one name in each line; empty lines are ignored.

    Raises:
        DataError: the file is not a text, is empty, or has another format.
    """
    way_out = "save it as UTF-8 text, one name a line"
    names = tuple(stripped for line in lines_of(data, name, way_out) if (stripped := line.strip()))
    if not names:
        raise DataError(f"{name}: contains no name; {way_out}")
    if names[0][0] in "[{":
        raise DataError(f"{name}: looks like JSON ({names[0][:20]!r}); {way_out}")
    return names


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
    return next((kind for test, kind in kinds if test(mode)), "device")


def _shown(path: str | os.PathLike[str]) -> str:
    """The path as text on one line."""
    return " ".join(os.fsdecode(path).splitlines()) or repr(path)
