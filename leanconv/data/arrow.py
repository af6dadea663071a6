"""Data sets of Hugging Face's library `datasets`: folders of ``save_to_disk``, and parquet files larger than the memory.

`datasets` maps its files into memory, so that any image can be read at any time and the system keeps only what is used.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from leanconv.core.errors import DataError, SettingError
from leanconv.data.classes import class_names
from leanconv.data.encoded import MAX_PIXELS
from leanconv.data.folder import SPLIT, TEST_PARTS, NoTestPart
from leanconv.data.gather import gather
from leanconv.data.images import ImageData
from leanconv.data.problems import Problems
from leanconv.data.split import HeldOut
from leanconv.data.text import read_bytes

if TYPE_CHECKING:
    from datasets import Dataset

INSTALL = "pip install 'leanconv[datasets]'"
NEEDED = "needs one column of images and one of class labels"


class ArrowRows:
    """The encoded images of a data set of `datasets`.

    Args:
        name: what an error calls the data set.
        dataset: the data set.
        column: its column of images.
    """

    def __init__(self, name: str, dataset: Dataset, column: str) -> None:
        from datasets import Image

        self.title, self.column = name, column
        self.dataset = dataset.select_columns([column]).cast_column(column, Image(decode=False))
        self.rows = np.arange(len(dataset))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> ArrowRows:
        """These rows (int64, (M,)), in this order."""
        taken = copy.copy(self)
        taken.rows = self.rows[rows.numpy()]
        return taken

    def name(self, index: int) -> str:
        """The data set and the row of image `index`."""
        return f"{self.title} row {self.rows[index]}"

    def read(self, index: int) -> bytes:
        """The encoded bytes of image `index`.

        Raises:
            DataError: the row has no image.
        """
        value: dict[str, Any] | None = self.dataset[int(self.rows[index])][self.column]
        if value is None or not (value.get("bytes") or value.get("path")):
            raise DataError(f"{self.name(index)}: there is no image; put the encoded image there or drop the row")
        if value.get("bytes") is None:
            return read_bytes(value["path"], "restore or drop this image")
        return value["bytes"]


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def saved_dataset(
    folder: Path, problems: Problems | None = None, max_pixels: int = MAX_PIXELS, test_split: float | None = None
) -> ImageData:
    """The images of a folder that ``save_to_disk`` of `datasets` wrote: splits train and test (or validation), or one split.

    Args:
        folder, problems, max_pixels, test_split: see `leanconv.data.folder.image_folder`.

    Raises:
        DataError: a split or a column is missing, or an image cannot be read.
        SettingError: `datasets` is not installed; or `test_split` is given, and there is a test part.
    """
    with _library(str(folder)) as library:
        found = library.load_from_disk(str(folder))
    parts = found if isinstance(found, dict) else {"train": found}
    return opened(str(folder), folder.resolve().name, parts, problems, max_pixels, test_split)


def large_parquet(
    folder: Path, files: dict[str, list[str]], problems: Problems, max_pixels: int, test_split: float | None
) -> ImageData:
    """Parquet files that do not fit into memory: `datasets` writes them once into its cache (``HF_DATASETS_CACHE``).

    Args:
        folder: what an error names.
        files: the files of each part.
        problems, max_pixels, test_split: see `leanconv.data.folder.image_folder`.

    Raises:
        DataError, SettingError: as `saved_dataset`.
    """
    with _library(str(folder)) as library:
        parts = library.load_dataset("parquet", data_files=files)
    return opened(str(folder), folder.resolve().name, parts, problems, max_pixels, test_split)


def opened(
    place: str,
    name: str,
    parts: dict[str, Dataset],
    problems: Problems | None = None,
    max_pixels: int = MAX_PIXELS,
    test_split: float | None = None,
) -> ImageData:
    """The images of opened data sets by the names of their parts; arguments and errors as for `saved_dataset`."""
    problems = Problems("refuse") if problems is None else problems
    if "train" not in parts:
        raise DataError(f"{place}: no split named train among {', '.join(parts) or 'none'}; name the training split so")
    test = next((part for part in TEST_PARTS if part in parts), None)
    if test is None and test_split is None:
        raise NoTestPart(f"{place}: no test part; add a split named test or validation; {SPLIT}")
    if test is not None and test_split is not None:
        raise SettingError(f"test_split={test_split} is for data without a test part; {place} has {test}: leave it out")
    rows, labels, names = _part(place, "train", parts["train"])
    held_out = None
    if test is None:
        assert test_split is not None
        held_out, kept, held = HeldOut.of(test_split, map(str, range(len(labels))), labels)
        sides = [(rows.take(side), labels[side]) for side in (kept, held)]
    else:
        other_rows, other_labels, other_names = _part(place, test, parts[test], int(labels.max()) + 1)
        if other_names != names:
            raise DataError(f"{place}: the class names of {test} differ from those of train; make them equal")
        sides = [(rows, labels), (other_rows, other_labels)]
    found = [
        gather(*side, f"{part} images", problems, max_pixels)
        for side, part in zip(sides, ("train", "test"), strict=True)
    ]
    problems.settle()
    classes = names or tuple(str(number) for number in range(int(labels.max()) + 1))
    return ImageData.of(name, classes, *found, named=bool(names), problems=problems, held_out=held_out)


def _part(
    place: str, part: str, dataset: Dataset, classes: int | None = None
) -> tuple[ArrowRows, Tensor, tuple[str, ...]]:
    """The images of a split, its labels (N,), and its class names or ().

    Without names, the labels of the train part count its `classes`; each has an image there, so there are at most as many as
    rows.
    """
    from datasets import ClassLabel, Image, Value

    kinds = dataset.features
    images = [name for name, kind in kinds.items() if isinstance(kind, Image)]
    images += [name for name in kinds if name == "image" and not images]  # a struct of bytes and path, without metadata
    labels = [name for name, kind in kinds.items() if isinstance(kind, ClassLabel)]
    if len(labels) != 1:
        labels = [
            name for name in ("label", "fine_label") if name in kinds and isinstance(kinds[name], Value | ClassLabel)
        ]
    if len(images) != 1 or not labels or (isinstance(kinds[labels[0]], Value) and "int" not in kinds[labels[0]].dtype):
        found = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in kinds.items())
        raise DataError(f"{place} {part}: {NEEDED}; it has {found or 'none'}")
    if not len(dataset):
        raise DataError(f"{place} {part}: no rows; a part needs at least one image")
    column = dataset.select_columns(labels[:1]).with_format("arrow")[:][labels[0]]
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise DataError(f"{place} {part} row {row}: the label is null; give it a class or drop the row")
    numbers = torch.from_numpy(column.to_numpy().astype(np.int64))
    kind = kinds[labels[0]]
    names = class_names(kind.names, place) if isinstance(kind, ClassLabel) and kind.names else ()
    count = len(names) or classes
    wrong = (numbers < 0) | (numbers >= (count or len(numbers)))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        rule = f"0..{count - 1} ({count} classes)" if count else "0, 1, 2, ..."
        raise DataError(f"{place} {part} row {row}: label {int(numbers[row])} is not in {rule}; fix the label")
    return ArrowRows(f"{place} {part}", dataset, images[0]), numbers, names


@contextlib.contextmanager
def _library(place: str) -> Iterator[Any]:
    """The library `datasets` without its progress bars; its errors become a DataError that names `place`."""
    try:
        import datasets
    except ImportError:
        raise SettingError(f"{place}: is read by Hugging Face's datasets; {INSTALL}") from None
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield datasets
    except Exception as error:  # the library passes on the errors of many others
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{place}: cannot be read ({cause[:200]}); write it again with save_to_disk") from error
    finally:
        if shown:
            datasets.enable_progress_bars()
