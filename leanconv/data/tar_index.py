"""The index of a tar file: where each image is, and its label. With it, any image can be read at any time.

A stream through a tar file cannot do this: it can only shuffle within a buffer, and a run that stops within an epoch would
have to read the epoch again to continue with the same images. The index is read once for each file and then kept in the
user's cache, because reading the headers of a million members takes minutes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from leanconv.core.atomic import replacing
from leanconv.core.errors import DataError, SettingError
from leanconv.data.encoded import SUFFIXES
from leanconv.data.text import open_regular

VERSION = 2  # of the files in the cache
LARGEST = 2**63  # bytes of a shard
LABEL = ".cls"
LONGEST_LABEL = 4096
UNREAD = 10  # how many ends of unread images an index holds
WAY_OUT = "fetch or write it again"
BLOCK = 512
PLAIN, PAX = (
    b"0\0",
    b"x",
)  # types of members: a file (written in two ways), and a header that adds fields to the next member


@dataclass(frozen=True)
class TarIndex:
    """The images of a tar file, in its order.

    Args:
        headers: the place of each image's first header, in bytes; its name is there.
        offsets, sizes: the place and the size of its content.
        codes: the index of its label in `labels`, or -1.
        labels: the different labels, as the file writes them.
        unread: the ends of images beside the one that is read of each name, such as ".depth.png"; the first ten.
        damage: what is wrong behind the last readable member; "" for a complete file.
    """

    headers: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    codes: np.ndarray
    labels: np.ndarray
    unread: np.ndarray
    damage: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets)


def index_of(path: str | os.PathLike[str], cache: Path | None = None) -> TarIndex:
    """The index of the tar file `path`, from the cache or from the file.

    Args:
        path: an uncompressed tar file.
        cache: the folder of the cache; by default ``leanconv/shards`` in the user's cache (``XDG_CACHE_HOME``, or else
            ``~/.cache``). Where it cannot be written, nothing is kept.

    Raises:
        DataError: the file cannot be read, or is no tar file.
    """
    with open_regular(path, WAY_OUT, LARGEST) as file:
        facts = os.fstat(file.fileno())
        key = f"{VERSION} {os.path.abspath(path)} {facts.st_size} {facts.st_mtime_ns}"
        kept = (cache_folder() if cache is None else cache) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
        # a damaged file raises what zipfile, zlib or numpy meet first; the index is then read from the shard
        with contextlib.suppress(Exception), open(kept, "rb") as held, np.load(held, allow_pickle=False) as found:
            return TarIndex(**{field.name: found[field.name] for field in fields(TarIndex)})
        index = read_index(file, str(path))
        with contextlib.suppress(OSError, SettingError), replacing(kept) as temporary, open(temporary, "wb") as output:
            np.savez(output, **vars(index))
        return index


def cache_folder() -> Path:
    """``leanconv/shards`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leanconv" / "shards"


def read_index(file: BinaryIO, name: str) -> TarIndex:
    """The index of an open tar file.

    Of several images with the same name, the first one is read; but NAME.jpg before NAME.depth.png, because all that follows
    the first dot says what a file is.

    Args:
        file: the file.
        name: what an error calls the file.

    Raises:
        DataError: the file begins with no member.
    """
    images: list[tuple[int, int, int, str, str]] = []
    labels: dict[str, str] = {}
    places: dict[str, int] = {}  # in `images`, of each name
    unread: set[str] = set()
    damage = ""
    try:
        for member, header, offset, size in members(file):
            key, suffix = split_name(member)
            if suffix == LABEL and size <= LONGEST_LABEL:
                file.seek(offset)
                labels[key] = plain_label(file.read(size).decode("utf-8", "replace"))
            elif suffix.endswith(SUFFIXES):
                place, image = places.setdefault(key, len(images)), (header, offset, size, key, suffix)
                if place == len(images):
                    images.append(image)
                elif suffix in SUFFIXES and images[place][-1] not in SUFFIXES:
                    unread.add(images[place][-1])
                    images[place] = image
                else:
                    unread.add(suffix)
    except tarfile.TarError as error:
        if not images and not labels:
            raise DataError(f"{name}: not a readable tar file ({error}); {WAY_OUT}") from error
        damage = str(error)
    keys = [image[3] for image in images]
    texts = sorted({labels[key] for key in keys if key in labels})
    codes = {text: code for code, text in enumerate(texts)}
    found = np.array([image[:3] for image in images], dtype=np.int64).reshape(-1, 3)
    return TarIndex(
        found[:, 0].copy(), found[:, 1].copy(), found[:, 2].copy(),
        np.array([codes.get(labels.get(key, ""), -1) for key in keys], dtype=np.int32),
        np.array(texts, dtype=np.str_), np.array(sorted(unread)[:UNREAD], dtype=np.str_), np.array(damage),
    )  # fmt: skip


def plain_label(text: str) -> str:
    r"""A label as it is compared: without spaces around it, and a number without zeros before it.

    >>> plain_label("007\n"), plain_label(" cat ")
    ('7', 'cat')
    """
    text = text.strip()
    return str(int(text)) if re.fullmatch(r"[0-9]{1,9}", text) else text


def split_name(member: str) -> tuple[str, str]:
    """The name of an image without its end, and the end in lower case. The end begins at the first dot of the file name.

    This is the rule of WebDataset: members with the same name and different ends belong together.

    >>> split_name("dogs/n01.1.JPG")
    ('dogs/n01', '.1.jpg')
    """
    folder, slash, file = member.rpartition("/")
    stem, dot, end = file.partition(".")
    return folder + slash + stem, (dot + end).lower()


def members(file: BinaryIO) -> Iterator[tuple[str, int, int, int]]:
    """(name, place of the first header, place of the content, size) of each regular file in a tar file.

    Headers of plain members are read here, because tarfile takes ten times as long; tarfile reads all others (long names,
    links, sparse files).

    Raises:
        tarfile.TarError: the file is damaged or ends too early.
    """
    position, end = 0, os.fstat(file.fileno()).st_size
    first = 0  # of the present member
    while True:
        file.seek(position)
        header = file.read(BLOCK)
        if header == bytes(BLOCK):
            return  # the mark of the end
        if len(header) < BLOCK:
            raise tarfile.ReadError("it ends without the mark of its end")
        kind = header[156:157]
        if not _is_checked(header) or (kind not in (b"0", b"\0", PAX)):
            member, position = _by_tarfile(file, first)
        else:
            size = int(header[124:136].rstrip(b"\0 ") or b"0", 8)
            after = position + BLOCK + -(-size // BLOCK) * BLOCK
            if kind == PAX:
                extra = file.read(size)
                if b" path=" not in extra and b" size=" not in extra and b"GNU.sparse" not in extra:
                    position = after  # times and the like; the member itself follows
                    continue
                member, position = _by_tarfile(file, first)
            else:
                member, position = (_name(header), first, position + BLOCK, size), after
        if position > end:
            raise tarfile.ReadError("it ends within a member")
        if member is not None:
            yield member
        first = position


def _is_checked(header: bytes) -> bool:
    """Whether the checksum of a header is right."""
    try:
        noted = int(header[148:156].strip(b"\0 ") or b"0", 8)
    except ValueError:
        return False
    return noted == 256 + sum(header) - sum(header[148:156])


def _name(header: bytes) -> str:
    own, prefix = (part.partition(b"\0")[0] for part in (header[:100], header[345:500]))
    whole = prefix + b"/" + own if prefix and header[257:262] == b"ustar" and header[262:263] == b"\0" else own
    return whole.decode("utf-8", "surrogateescape")


def _by_tarfile(file: BinaryIO, position: int) -> tuple[tuple[str, int, int, int] | None, int]:
    """The member whose first header is at `position`, or None if it is no regular file; and the place behind it."""
    member, after = member_at(file, position)
    if not member.isreg() or member.issparse():
        return None, after
    return (member.name, position, member.offset_data, member.size), after


def member_at(file: BinaryIO, position: int) -> tuple[tarfile.TarInfo, int]:
    """The member of a tar file whose first header is at `position`, and the place behind it.

    Raises:
        tarfile.TarError: there is no member.
    """
    file.seek(position)
    with tarfile.TarFile(fileobj=file, mode="r") as tar:
        found = tar.next()
        if found is None:
            raise tarfile.ReadError("a header in it is damaged")
        return found, tar.offset
