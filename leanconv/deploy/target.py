"""Where an export may be written: it replaces files of its own format only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from leanconv.core.errors import SettingError
from leanconv.files.save import METADATA_KEY


def check_target(path: Path, suffixes: Sequence[str]) -> None:
    """Raise SettingError if an export to `path` would fail after its work, or replace what is no export.

    Args:
        path: the file to write.
        suffixes: of all files that are written; the first is that of `path`.
    """
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise SettingError(f"{parent} cannot be a folder: a file has this name; choose another place")
    for suffix in suffixes:
        if path.with_suffix(suffix).is_dir():
            raise SettingError(f"{path.with_suffix(suffix)} is a folder; choose another place for the file")
        if path.with_suffix(suffix).exists() and not path.exists():
            raise SettingError(
                f"{path.with_suffix(suffix)} stands without {path.name}, so it is no part of an export and is kept; choose "
                "another name"
            )
    if path.suffix == ".safetensors" and path.exists() and _is_saved(path):
        raise SettingError(
            f"{path} is a network that leanconv.save wrote, with its plan, and is kept; choose another name for the weights alone"
        )


def _is_saved(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False
