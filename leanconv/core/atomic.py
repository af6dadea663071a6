"""Atomic writes: a reader finds either the old file or the new file, even after a crash."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from leanconv.core.errors import SettingError


def check_place(path: Path) -> None:
    """Raise SettingError if `path` is a folder, or a file stands where one of its folders would be."""
    parent = next((folder for folder in path.parents if folder.exists()), path)
    if not parent.is_dir():
        raise SettingError(f"{parent} cannot be a folder: a file has this name; choose another place")
    if path.is_dir():
        raise SettingError(f"{path} is a folder; choose another place for the file")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file is renamed to `path` on success, and removed on an error.

    Raises:
        SettingError: the folder of `path` is a file, or `path` is a folder.
    """
    target = Path(path)
    check_place(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        _lock(handle)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        make_ordinary(temporary)
        os.replace(temporary, target)
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Remove the temporary files of `names` in `folder` that killed processes left; a file being written is kept."""
    for name in names:
        for path in Path(folder).glob(f".{glob.escape(name)}.????????"):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                if _lock(file.fileno()):
                    path.unlink()


def _lock(handle: int) -> bool:
    """Lock an open file, and return whether it worked; the system unlocks the file when the process ends."""
    try:
        import fcntl  # not on Windows, where leftovers stay

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def make_ordinary(path: str | os.PathLike[str]) -> None:
    """Give a file the permissions that the umask asks for; mkstemp and safetensors make private files."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
