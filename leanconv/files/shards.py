"""A checkpoint in several files: an index with the suffix ``.index.json`` says which tensor is in which file beside it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from leanconv.core.errors import FileError
from leanconv.core.reading import parse_json
from leanconv.core.settings import check_path

INDEX = ".index.json"
LARGEST = 2**26  # bytes of an index; that of a network with 100,000 tensors has a tenth of it
PART = re.compile(r"-(\d+)-of-(\d+)(?=\.)")  # model-00001-of-00002.safetensors


def checkpoint_file(path: str | os.PathLike[str]) -> Path:
    """The file of a checkpoint: `path` itself, or in a folder the index of its parts.

    Raises:
        SettingError: `path` is no path.
        FileError: there is no such file, or a folder has no index or several.
    """
    path = check_path("path", path, "a state dict in memory goes in with model.load_state_dict(state)")
    if path.is_dir():
        found = sorted(path.glob(f"*{INDEX}"))
        if len(found) == 1:
            return found[0]
        raise FileError(
            f"{path} is a folder with {len(found)} indexes of parts (*{INDEX}); give the file of the checkpoint"
        )
    if not path.is_file():
        raise FileError(f"no file {path}; give the checkpoint that the release offers")
    return path


def is_index(path: Path) -> bool:
    """Whether a checkpoint's file is an index of parts, by its name.

    >>> is_index(Path("model.safetensors.index.json"))
    True
    """
    return path.name.endswith(INDEX)


def parts_of(index: Path) -> dict[Path, list[str]]:
    """The files that an index names, each with the names of its tensors.

    Raises:
        FileError: the index is none, names a file of another folder, or a file is missing.
    """
    if index.stat().st_size > LARGEST:
        raise FileError(f"{index.name} has over {LARGEST:,} bytes, which no index has; fetch it again")
    try:
        found = parse_json(index.read_bytes())
    except ValueError as error:
        raise FileError(f"{index.name} is no JSON ({error}); fetch it again") from error
    places = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise FileError(f"{index.name} has no weight_map of names to files; give the index that lies beside the parts")
    parts: dict[str, list[str]] = {}
    for name, file in places.items():
        parts.setdefault(file, []).append(name)
    return {_beside(index, file): names for file, names in parts.items()}


def _beside(index: Path, file: str) -> Path:
    if file in ("", ".", "..") or re.search(r"[/\\:\0]", file) or is_index(Path(file)):
        raise FileError(f"{index.name} names {file!r}; a part lies in the folder of its index, so it is not read")
    path = index.parent / file
    if not path.is_file():
        raise FileError(f"{index.name} names {file}, which is not in its folder; fetch this file too")
    return path


def files_of(path: Path) -> list[Path]:
    """All files of a checkpoint: the file, and the parts if it is an index."""
    return [path, *(parts_of(path) if is_index(path) else ())]


def part_hint(path: Path) -> str:
    """What to add to an error about missing tensors if a file's name shows that it is one part of several, else "".

    >>> part_hint(Path("model-00001-of-00002.safetensors"))
    '; by its name it is part 1 of 2: give the index of all parts, model.safetensors.index.json'
    """
    found = PART.search(path.name)
    if found is None:
        return ""
    index = f"{path.name[: found.start()]}{path.suffix}{INDEX}"
    return f"; by its name it is part {int(found[1])} of {int(found[2])}: give the index of all parts, {index}"
