"""Where an export may be written: it replaces files of its own format only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leanconv.core.atomic import check_place
from leanconv.core.errors import SettingError
from leanconv.files.save import written_here


def check_target(path: Path, suffixes: Sequence[str]) -> None:
    """Raise SettingError if an export to `path` would fail after its work, or replace what is no export.

    Args:
        path: the file to write.
        suffixes: of all files that are written; the first is that of `path`.
    """
    for suffix in suffixes:
        check_place(path.with_suffix(suffix))
        if path.with_suffix(suffix).exists() and not path.exists():
            raise SettingError(
                f"{path.with_suffix(suffix)} stands without {path.name}, so it is no part of an export and is kept; choose "
                "another name"
            )
    if path.suffix == ".safetensors" and path.exists() and written_here(path):
        raise SettingError(
            f"{path} is a network that leanconv.save wrote, with its plan, and is kept; choose another name for the weights alone"
        )
