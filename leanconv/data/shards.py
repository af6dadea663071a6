"""WebDataset shards: tar files that hold NAME.jpg with NAME.cls, for example as ``shards/train-{0000..0127}.tar``."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import re
import tarfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leanconv.core.atomic import remove_leftovers, replacing
from leanconv.core.errors import DataError, LeanconvWarning, SettingError
from leanconv.core.shown import first_names
from leanconv.data.encoded import MAX_PIXELS
from leanconv.data.folder import SPLIT, TEST_PARTS, TRAIN_PARTS, NoTestPart
from leanconv.data.gather import gather
from leanconv.data.images import ImageData
from leanconv.data.problems import Problems
from leanconv.data.split import HeldOut
from leanconv.data.tar_index import LARGEST, WAY_OUT, TarIndex, cache_folder, index_of, member_at
from leanconv.data.text import label_names, open_regular, read_bytes

NAME_FILES = ("classes.txt", "classnames.txt")  # in the folder of the shards: one class name in each line
LABELS = "put NAME.cls with the class beside each image NAME.jpg"


class ShardRows:
    """The encoded images of several shards; each is read from its place when it is needed.

    Args:
        files: the shards.
        indices: the index of each shard.
    """

    def __init__(self, files: Sequence[str], indices: Sequence[TarIndex]) -> None:
        self.files = tuple(files)
        counts = [len(index) for index in indices]
        self.shards = np.repeat(np.arange(len(files), dtype=np.int32), counts)
        self.headers, self.offsets, self.sizes = (
            np.concatenate([getattr(index, name) for index in indices]) for name in ("headers", "offsets", "sizes")
        )

    def __len__(self) -> int:
        return len(self.shards)

    def take(self, rows: Tensor) -> ShardRows:
        """These images (int64, (M,)), in this order."""
        taken = copy.copy(self)
        for name in ("shards", "headers", "offsets", "sizes"):
            setattr(taken, name, getattr(self, name)[rows.numpy()])
        return taken

    def name(self, index: int) -> str:
        """The shard and the member of image `index`."""
        path = self.files[self.shards[index]]
        try:
            with open_regular(path, WAY_OUT, LARGEST) as file:
                return f"{path} member {member_at(file, int(self.headers[index]))[0].name}"
        except (DataError, tarfile.TarError):
            return f"{path} byte {self.headers[index]}"

    def read(self, index: int) -> bytes:
        """The encoded bytes of image `index`.

        Raises:
            DataError: the shard cannot be read, or was changed.
        """
        path, size = self.files[self.shards[index]], int(self.sizes[index])
        with open_regular(path, WAY_OUT, LARGEST) as file:
            file.seek(int(self.offsets[index]))
            data = file.read(size)
        if len(data) < size:
            raise DataError(f"{path}: it ends at an image; {WAY_OUT}")
        return data

    def places(self) -> list[str]:
        """A short text for each image that stays the same wherever the shards are."""
        names = [os.path.basename(path) for path in self.files]
        return [f"{names[shard]} {offset}" for shard, offset in zip(self.shards, self.offsets, strict=True)]


def are_shards(name: str) -> bool:
    """Whether `name` is a pattern of shards, and not a folder or a data set.

    >>> are_shards("shards/train-{0000..0127}.tar"), are_shards("photos")
    (True, False)
    """
    return name.endswith(".tar")


def shards(
    pattern: str, problems: Problems | None = None, max_pixels: int = MAX_PIXELS, test_split: float | None = None
) -> ImageData:
    """The images of WebDataset shards.

    The file name says the part: train-0003.tar or imagenet-val-00.tar; a shard without such a word belongs to the train part.
    If a local pattern names train shards only, the test shards in the same folder are used. NAME.cls holds a class number or
    a class name. Names of numbered classes may be in classes.txt beside the shards.

    Args:
        pattern: paths or addresses with braces as in a shell: ``{0000..0127}``, ``{train,val}``. Shards at an address
            (https://, s3://) are downloaded into the user's cache once.
        problems, max_pixels, test_split: see `leanconv.data.folder.image_folder`.

    Raises:
        DataError: a shard is missing or damaged, or an image in it has no label or cannot be read.
        SettingError: `test_split` is given, and there is a test part.
    """
    problems = Problems("refuse") if problems is None else problems
    named = expanded(pattern)
    train_files = [path for path in named if part_of(path) == "train"]
    tests = [path for path in named if part_of(path) != "train"]
    folder = os.path.dirname(train_files[0] if train_files else named[0])
    if not tests and "://" not in pattern:
        tests = [path for path in expanded(os.path.join(folder, "*.tar")) if part_of(path) != "train"]
    if not train_files:
        raise DataError(f"{pattern}: no shard of a train part; give train-*.tar too: {{train-*,val-*}}.tar")
    first = next((part for part in TEST_PARTS if any(part_of(path) == part for path in tests)), None)
    test_files = [path for path in tests if part_of(path) == first]
    if not test_files and test_split is None:
        raise NoTestPart(f"{pattern}: no test part; add test-*.tar or val-*.tar; {SPLIT}")
    if test_files and test_split is not None:
        raise SettingError(
            f"test_split={test_split} is for data without a test part; {folder} has "
            f"{os.path.basename(test_files[0])}: leave it out"
        )
    train_rows, train_texts = read_shards(train_files, problems)
    test_rows, test_texts = read_shards(test_files, problems) if test_files else (train_rows, train_texts)
    classes, numbers, is_named = _classes(folder, train_texts[0], problems)
    train_labels = numbers[torch.from_numpy(train_texts[1])]
    test_labels = _labels_of_test(test_rows, test_texts, train_texts[0], numbers)
    held_out = None
    if test_split is not None:
        held_out, kept, held = HeldOut.of(test_split, train_rows.places(), train_labels)
        train_rows, test_rows = train_rows.take(kept), train_rows.take(held)
        train_labels, test_labels = train_labels[kept], train_labels[held]
    parts = [
        gather(rows, labels, f"{part} images", problems, max_pixels)
        for rows, labels, part in ((train_rows, train_labels, "train"), (test_rows, test_labels, "test"))
    ]
    problems.settle()
    name = os.path.basename(os.path.abspath(folder)) if "://" not in folder else folder.rstrip("/").rpartition("/")[2]
    return ImageData.of(name, classes, *parts, named=is_named, problems=problems, held_out=held_out)


def expanded(pattern: str) -> list[str]:
    """The shards that a pattern names, without repetition; ``*`` and ``?`` are looked up in the folder.

    >>> expanded("https://example.org/train-{08..11}.tar")[1]
    'https://example.org/train-09.tar'
    """
    import glob

    from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]

    try:
        texts = list(braceexpand(pattern))
    except UnbalancedBracesError:
        raise SettingError(f"--data {pattern!r}: a brace has no partner; write train-{{0000..0127}}.tar") from None
    found: list[str] = []
    for text in texts:
        wild = "://" not in text and re.search(r"[*?]", text)
        found += sorted(glob.glob(os.path.expanduser(text))) if wild else [os.path.expanduser(text)]
    if not found:
        raise DataError(f"{pattern}: no such file; give the shards: shards/train-{{0000..0127}}.tar")
    return list(dict.fromkeys(found))


def part_of(path: str) -> str:
    """The part that the name of a shard says: "train", or one of the test parts.

    >>> part_of("imagenet1k-validation-00.tar"), part_of("00001.tar")
    ('validation', 'train')
    """
    words = re.split(r"[^a-z]+", os.path.basename(path).lower())
    found = next((word for word in words if word in (*TRAIN_PARTS, *TEST_PARTS)), "train")
    return "train" if found in TRAIN_PARTS else found


def read_shards(files: Sequence[str], problems: Problems) -> tuple[ShardRows, tuple[list[str], np.ndarray]]:
    """The images of shards, and their labels: the different texts, and the index of each image's text.

    Raises:
        DataError: no shard holds an image with a label.
    """
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        found = list(pool.map(_indexed, files))
    local, indices = [path for path, _ in found], [index for _, index in found]
    for path, index in found:
        if isinstance(index, DataError):
            problems.add("shard that cannot be read", path, str(index))
        elif str(index.damage):
            problems.add(f"shard that is damaged ({index.damage})", path)
    good = [(path, index) for path, index in zip(local, indices, strict=True) if not isinstance(index, DataError)]
    if not any(len(index) for _, index in good):
        problems.settle()
        raise DataError(f"{files[0]}: no image in it; {LABELS}")
    unread = sorted({str(end) for _, index in good for end in index.unread})
    if unread:
        warnings.warn(
            f"{files[0]}: further images in these shards are not read, with the ends {first_names(unread)}; of each NAME, one "
            "image is read: NAME.jpg, or else the first one",
            LeanconvWarning, stacklevel=4,
        )  # fmt: skip
    rows = ShardRows(*zip(*good, strict=True))
    texts = sorted({str(text) for _, index in good for text in index.labels})
    places = {text: place for place, text in enumerate(texts)}
    codes = np.concatenate([_renumbered(index, places) for _, index in good])
    for row in (codes < 0).nonzero()[0].tolist():
        problems.add("image without a label", rows.name(row))
    kept = torch.from_numpy((codes >= 0).nonzero()[0])
    if not len(kept):
        raise DataError(f"{files[0]}: no image in it has a label; {LABELS}")
    return rows.take(kept), (texts, codes[kept.numpy()])


def _indexed(path: str) -> tuple[str, TarIndex | DataError]:
    """The place of a shard on this machine, and its index or what is wrong with it."""
    try:
        local = _fetched(path) if "://" in path else path
        return local, index_of(local)
    except DataError as error:
        return path, error


def _fetched(address: str) -> str:
    """The file in the user's cache that holds the shard at `address`; it is downloaded if it is not there.

    One process at a time downloads an address. The file gets its name when it is complete, so that no process reads a part.
    """
    from filelock import FileLock
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(address)
        kind = address.partition("://")[0].replace("::", "-")
        kept = cache_folder() / "fetched" / kind / hashlib.sha256(path.encode()).hexdigest()
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_name(f".{kept.name}.lock")):
            if not kept.exists():
                remove_leftovers(kept.parent, [kept.name])
                _download(system, path, kept)
        return str(kept)
    except Exception as error:  # each kind of address has its own errors
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{address}: cannot be fetched ({cause[:200]}); check the address and the network") from error


def _download(system: Any, path: str, kept: Path) -> None:
    """Download a file; it is refused if it is shorter or longer than the address says."""
    with replacing(kept) as temporary:
        system.get_file(path, str(temporary))
        size, here = None, temporary.stat().st_size
        with contextlib.suppress(Exception):  # an address need not say its size
            size = system.size(path)
        if size is not None and here != size:
            raise EOFError(f"{here:,} of {size:,} bytes arrived")


def _renumbered(index: TarIndex, places: dict[str, int]) -> np.ndarray:
    """The codes of a shard's labels in the texts of all shards; -1 without a label."""
    codes = np.array([places[str(text)] for text in index.labels] + [-1], dtype=np.int64)
    return codes[index.codes]


def _classes(folder: str, texts: list[str], problems: Problems) -> tuple[tuple[str, ...], Tensor, bool]:
    """The class names, the class of each text of `texts`, and whether the names are more than numbers.

    Raises:
        DataError: the numbers leave out classes, or are more than the names.
    """
    if not all(re.fullmatch(r"[0-9]{1,9}", text) for text in texts):
        return tuple(texts), torch.arange(len(texts)), True
    numbers = torch.tensor([int(text) for text in texts])
    files = [] if "://" in folder else [Path(folder) / name for name in NAME_FILES]
    listed = next((path for path in files if path.is_file()), None)
    names = label_names(read_bytes(listed, WAY_OUT), str(listed)) if listed else ()
    count = len(names) if listed else int(numbers.max()) + 1
    if int(numbers.max()) >= count:
        problems.settle()
        raise DataError(f"{listed}: {count} names, and label {int(numbers.max())} in the shards; add the missing names")
    if not listed and count > len(texts):
        raise DataError(f"{folder}: label {count - 1} and {len(texts)} classes; number the classes 0, 1, 2, ...")
    return names or tuple(str(number) for number in range(count)), numbers, bool(listed)


def _labels_of_test(rows: ShardRows, texts: tuple[list[str], np.ndarray], known: list[str], numbers: Tensor) -> Tensor:
    """The labels of the test part; its texts may be fewer than those of the train part.

    Raises:
        DataError: a text is no class of the train part.
    """
    own, codes = texts
    places = dict(zip(known, numbers.tolist(), strict=True))
    strangers = [code for code, text in enumerate(own) if text not in places]
    for code in strangers:
        where = rows.name(int((codes == code).nonzero()[0][0]))
        raise DataError(
            f"{where}: label {own[code]!r} is no class of the train part; fix the label, or add images of it there"
        )
    return torch.tensor([places[text] for text in own])[torch.from_numpy(codes)]
