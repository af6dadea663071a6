"""Find images and class folders, without the files that macOS, Windows, Jupyter and others leave behind."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from leanconv.core.errors import DataError
from leanconv.data.encoded import OTHER_SUFFIXES, is_image_name
from leanconv.data.problems import Problems

JUNK = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}


def folders_in(folder: Path) -> dict[str, Path]:
    """The folders in `folder`, sorted by name, without hidden folders (.git, .ipynb_checkpoints) and system folders.

    macOS writes an accented letter as two characters, other systems as one. The returned names use one character.

    Raises:
        DataError: two folders then have the same name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.casefold() in JUNK or not path.is_dir():
            continue
        name = unicodedata.normalize("NFC", path.name)
        if name in found:
            raise DataError(f"{folder}: two folders are called {name!r}, encoded in two ways; put them together")
        found[name] = path
    return dict(sorted(found.items()))


def find_part(folder: Path, names: Sequence[str]) -> list[Path]:
    """The folders in `folder` that have one of these names, in the order of `names`. If no name matches exactly, upper and
    lower case do not matter."""
    exact = [folder / name for name in names if (folder / name).is_dir()]
    if exact:
        return exact
    there: dict[str, Path] = {}
    for path in folders_in(folder).values():
        there.setdefault(path.name.casefold(), path)
    return [there[name] for name in names if name in there]


def images_in(folder: Path) -> list[str]:
    """The names of the image files directly in `folder`, sorted."""
    return sorted(path.name for path in folder.iterdir() if is_image_name(path.name) and path.is_file())


def images_below(folder: Path, problems: Problems | None = None) -> list[str]:
    """The image files in `folder` and in the folders below, in the order of torchvision's ImageFolder.

    Links are followed, even out of the data set, because the author of the data set made them. A link that leads back to a
    folder above it is not followed.

    Args:
        problems: collects images in formats that are not read.
    """
    found: list[tuple[str, list[str]]] = []
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(str(folder), _folders_above(folder))]
    while waiting:
        place, above = waiting.pop()
        facts = os.stat(place)
        here = (facts.st_dev, facts.st_ino)
        if here in above:
            continue
        files = []
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir():
                    if not entry.name.startswith(".") and entry.name.casefold() not in JUNK:
                        waiting.append((entry.path, above | {here}))
                elif is_image_name(entry.name):
                    files.append(entry.path)
                elif problems is not None and entry.name.lower().endswith(OTHER_SUFFIXES) and entry.name[0] != ".":
                    problems.add("image of a kind that is not read", entry.path)
        found.append((place, sorted(files)))
    return [path for _, files in sorted(found) for path in files]


def _folders_above(folder: Path) -> frozenset[tuple[int, int]]:
    """The device and inode of each folder above, as the path is written and where it really is."""
    above = {*folder.absolute().parents, *folder.resolve().parents}
    return frozenset((facts.st_dev, facts.st_ino) for facts in map(os.stat, above))
