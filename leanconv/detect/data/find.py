"""Find the image file that an annotation names, only inside the data set."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from leanconv.core.errors import DataError
from leanconv.data.encoded import MAX_PIXELS, TooManyPixels, size_of
from leanconv.data.problems import Problems
from leanconv.detect.data.records import whole_number

THREADS = 8


class Finder:
    r"""Finds files by paths that other machines wrote.

    The finder first looks for the path itself, then for the path with Windows separators and URL escapes (%20) decoded. If the
    path is absolute, leads upwards, or does not exist, the finder uses the end of the path: for ``C:\photos\train\0.jpg`` it
    looks for train/0.jpg, then for 0.jpg. At last it ignores upper and lower case, surrounding spaces and the encoding of
    accents. Links in the data set are followed, because the author of the data set made them.

    Args:
        folders: the folders to search, the most likely one first.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        self._names: dict[str, list[Path]] | None = None

    def __call__(self, name: str) -> tuple[Path | None, bool]:
        """(the file or None, whether the file is exactly at the given path)."""
        plain = name.replace("\\", "/")
        for number, written in enumerate(dict.fromkeys((name, plain, unquote(plain)))):
            parts, moved = _inside(written)
            for start in range(len(parts)):
                for folder in self.folders:
                    path = os.path.join(folder, *parts[start:])
                    if os.path.isfile(path):
                        return Path(path), not moved and start == 0 and number < 2
        parts, _ = _inside(unquote(plain))
        alike = self._alike(parts[-1]) if parts else []
        return (alike[0], False) if len(alike) == 1 else (None, False)

    def _alike(self, base: str) -> list[Path]:
        if self._names is None:
            self._names = {}
            for folder in self.folders:
                with os.scandir(folder) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name):
                        if entry.is_file():
                            self._names.setdefault(_plain(entry.name), []).append(Path(entry.path))
        return self._names.get(_plain(base), [])


def _inside(name: str) -> tuple[list[str], bool]:
    """The parts of a path after a drive or ``..``, and whether other parts were cut off."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    cut = max((place + 1 for place, part in enumerate(parts) if part == ".." or part.endswith(":")), default=0)
    return [part for part in parts[cut:] if "\0" not in part], bool(cut) or name.startswith("/")


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()


@dataclass(frozen=True)
class Found:
    """An image file, with the (height, width) that its annotations refer to."""

    path: Path
    size: tuple[int, int]


def find_images(
    wanted: Sequence[tuple[str, Any, Any, str]], finder: Finder, problems: Problems, max_pixels: int = MAX_PIXELS
) -> list[Found | None]:
    """The image files that annotations name, each with the size that the annotations refer to.

    If the annotations state a size, the image must have this size, either as stored or rotated upright (EXIF). If they state no
    size, the upright size is used. The result for an image is None, with a note in `problems`, if the file does not exist, has
    another size, or is another image's too. With `problems` set to skip, a file that cannot be read is kept if its size is
    stated; reading it later reports it.

    Args:
        wanted: for each image: the file name, the stated height and width (None, "" or 0 if not stated), and the name of the
            image in a note.
        finder: finds the files.
        problems: collects what is wrong.
        max_pixels: an image with more pixels is left out.
    """
    places = [finder(name) for name, *_ in wanted]
    meant = Counter(path for path, _ in places)
    named = Counter(path for path, exact in places if exact)

    def look(place: int) -> tuple[str, str] | Found:
        name, height, width, where = wanted[place]
        path, exact = places[place]
        nothing = _none(height) and _none(width)
        if path is None:
            more = " (and no height and width)" if nothing else ""
            return f"image file that is not there{more}", " ".join(name.split())[:200]
        if not exact and meant[path] > 1:  # several images have this file name, and it is not known which one this is
            return "image file that several images mean by its name alone", f"{where}: {path.name}"
        if named[path] > 1:  # each image has a part of the annotations, or all twice
            return "image file that several images name", f"{where}: {path.name}"
        said = None
        if not nothing:
            numbers = whole_number(height), whole_number(width)
            if numbers[0] is None or numbers[1] is None or min(numbers[0], numbers[1]) < 1:
                return "image without a readable height and width", where
            said = numbers[0], numbers[1]
        try:
            stored, upright = size_of(path, max_pixels)
        except DataError as error:
            small = said is not None and said[0] * said[1] <= max_pixels
            if said is not None and small and problems.on_bad == "skip" and not isinstance(error, TooManyPixels):
                return Found(
                    path, said
                )  # reading it later reports it; evaluation counts it as a photo without detections
            return "image that cannot be read", str(error).rsplit("; ", 1)[0]
        if said is not None and said not in (stored, upright):
            found = f"{upright[1]}x{upright[0]} where the annotations say {said[1]}x{said[0]}"
            return "image of another size than its annotations say", f"{where}: {path.name}, {found}"
        return Found(path, upright if said is None else said)

    with ThreadPoolExecutor(THREADS) as pool:
        looked = list(pool.map(look, range(len(wanted)), chunksize=64))
    for one in looked:
        if isinstance(one, tuple):
            problems.add(*one)
    return [one if isinstance(one, Found) else None for one in looked]


def _none(value: Any) -> bool:
    return value is None or value == "" or (type(value) in (int, float) and value == 0)
