"""What lies in folders of images, without what macOS, Windows, Jupyter and others leave there."""

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
    """The folders in `folder` by name, sorted; hidden ones (.git, .ipynb_checkpoints) and systems' own are left out.

    macOS writes an accented letter as two characters, others as one: names are given as one.

    Raises:
        DataError: two names are one then.
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
    """The folders of these names in `folder`, in their order; in any case where none has exactly such a name."""
    exact = [folder / name for name in names if (folder / name).is_dir()]
    if exact:
        return exact
    there: dict[str, Path] = {}
    for path in folders_in(folder).values():
        there.setdefault(path.name.casefold(), path)
    return [there[name] for name in names if name in there]


def images_below(folder: Path, problems: Problems | None = None) -> list[str]:
    """The image files in `folder` and in the folders below, in the order of torchvision's ImageFolder.

    Links are followed, also out of the data set: whoever made the folder put them there. One that leads back to a folder
    it lies in is not.

    Args:
        problems: notes images of kinds that are not read.
    """
    found: list[tuple[str, list[str]]] = []
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(str(folder), frozenset())]
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
