"""A folder of parquet files with `image{bytes, path}` and `label`, as Hugging Face `datasets` writes them."""

from __future__ import annotations

import bisect
import copy
import os
import re
import stat
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from leanconv.core.errors import DataError, SettingError
from leanconv.data.arrow import INSTALL, large_parquet
from leanconv.data.classes import class_names
from leanconv.data.encoded import MAX_PIXELS
from leanconv.data.folder import SPLIT, NoTestPart
from leanconv.data.gather import gather
from leanconv.data.images import ImageData
from leanconv.data.problems import Problems
from leanconv.data.split import HeldOut
from leanconv.data.text import json_of

if TYPE_CHECKING:
    import pyarrow as pa

TEST_PARTS = ("test", "validation", "valid", "val")  # the first existing one is used
BATCH = 1024  # rows read at once
NEEDED = "needs the columns image (a struct with bytes, path) and label (an integer)"


class ParquetRows:
    """The encoded images of several files, in memory.

    Args:
        files: where the rows come from, for error messages.
        columns: the encoded images of each file.
    """

    def __init__(self, files: list[Path], columns: list[pa.ChunkedArray]) -> None:
        import pyarrow as pa

        self.files, self.ends = files, list(accumulate(len(column) for column in columns))
        self.data = pa.chunked_array([chunk for column in columns for chunk in column.chunks], type=columns[0].type)
        self.rows = np.arange(len(self.data))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> ParquetRows:
        """These rows (int64, (M,)); error messages still name their place in the files."""
        taken = copy.copy(self)
        taken.rows = self.rows[rows.numpy()]
        return taken

    def name(self, index: int) -> str:
        """The file and the row of image `index`."""
        index = int(self.rows[index])
        file = bisect.bisect_right(self.ends, index)
        return f"{self.files[file]} row {index - (self.ends[file - 1] if file else 0)}"

    def read(self, index: int) -> bytes:
        """The encoded bytes of image `index`.

        Raises:
            DataError: the row has no image.
        """
        data: bytes | None = self.data[int(self.rows[index])].as_py()
        if data is None:
            raise DataError(f"{self.name(index)}: image.bytes is null; put the encoded image there or drop the row")
        return data


def parquet_folder(
    folder: Path, problems: Problems | None = None, max_pixels: int = MAX_PIXELS, test_split: float | None = None
) -> ImageData:
    """A data set from parquet files: train-*.parquet, and test-*.parquet or else validation-*.parquet.

    Class names come from the Hugging Face schema metadata. Without this metadata they are "0" to "K-1", for the K labels of
    the train part. Encoded images are kept in memory; small images of one size are also decoded into memory. Files that take
    more than half of the memory are read through `datasets`, which maps a copy of them from the disk.

    Args:
        folder: the folder with the files.
        problems, max_pixels, test_split: see `leanconv.data.folder.image_folder`.

    Raises:
        DataError: a part, a column or a value is missing or wrong.
        SettingError: `test_split` is given, and the folder has a test part.
    """
    problems = Problems("refuse") if problems is None else problems
    train_files = part_files(folder, "train")
    if not train_files:
        raise DataError(f"{folder}: no train-*.parquet among its parquet files; rename the training files")
    test_files = next((files for part in TEST_PARTS if (files := part_files(folder, part))), [])
    if not test_files and test_split is None:
        raise NoTestPart(f"{folder}: no test part; add test-*.parquet or validation-*.parquet; {SPLIT}")
    if test_files and test_split is not None:
        found = f"{folder} has {test_files[0].name}"
        raise SettingError(f"test_split={test_split} is for data without a test part; {found}: leave it out")
    if _too_large(folder, train_files + test_files):
        parts = {"train": train_files, "test": test_files}
        named = {part: [str(path) for path in files] for part, files in parts.items() if files}
        return large_parquet(folder, named, problems, max_pixels, test_split)
    train_rows, train_labels, names = read_files(train_files)
    test_rows, test_labels, test_names = read_files(test_files) if test_files else (train_rows, train_labels, names)
    has_names = names is not None
    if names is None:
        names = _numbered(folder, train_labels)
    elif test_names is not None and test_names != names:
        raise DataError(f"{test_files[0]}: its class names differ from those of {train_files[0].name}; make them equal")
    _check_range(test_rows, test_labels, len(names))
    held_out = None
    if test_split is not None:
        rows_of = [f"{path.name} {len(train_rows)}" for path in train_files[:1]] + [""] * (len(train_labels) - 1)
        held_out, kept, held = HeldOut.of(test_split, rows_of, train_labels)
        train_rows, test_rows = train_rows.take(kept), train_rows.take(held)
        train_labels, test_labels = train_labels[kept], train_labels[held]
    train = gather(train_rows, train_labels, "train images", problems, max_pixels)
    test = gather(test_rows, test_labels, "test images", problems, max_pixels)
    problems.settle()
    return ImageData.of(
        folder.resolve().name, names, train, test, named=has_names, problems=problems, held_out=held_out
    )


def part_files(folder: Path, part: str) -> list[Path]:
    """The files of one part, in order.

    Raises:
        DataError: one of the files that are numbered like -00000-of-00002 is missing.
    """
    files = sorted(path for pattern in (f"{part}.parquet", f"{part}-*.parquet") for path in folder.glob(pattern))
    for path in files:
        if numbered := re.fullmatch(r"(.*-)(\d+)-of-(\d+)\.parquet", path.name):
            stem, digits, count = numbered.groups()
            names = [f"{stem}{number:0{len(digits)}}-of-{count}.parquet" for number in range(int(count))]
            for name in set(names) - {file.name for file in files}:
                raise DataError(f"{folder / name}: missing, one of {int(count)} files; restore it")
    return files


def read_files(files: list[Path]) -> tuple[ParquetRows, Tensor, tuple[str, ...] | None]:
    """The encoded images, the labels (N,) and the class names of one part; None for names if the schema has none.

    Raises:
        DataError: a file is empty or broken, or the files have different class names.
    """
    parts = [read_file(path) for path in files]
    if any(part[2] != parts[0][2] for part in parts):
        raise DataError(f"{files[0]}: its class names differ from those of the part's other files; make them equal")
    rows = ParquetRows(files, [part[0] for part in parts])
    labels = torch.cat([part[1] for part in parts])
    if not len(rows):
        raise DataError(f"{files[0]}: no rows; a part needs at least one image")
    _check_range(rows, labels, None if parts[0][2] is None else len(parts[0][2]))
    return rows, labels, parts[0][2]


def read_file(path: Path) -> tuple[pa.ChunkedArray, Tensor, tuple[str, ...] | None]:
    """The encoded images, the labels (N,) and the class names of one file; None for names if the schema has none.

    Raises:
        DataError: the file is not a parquet file, lacks a column or a label, or needs too much memory.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with open(path, "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise DataError(f"{path}: not a regular file; restore or drop it")
            file = pq.ParquetFile(opened)
            schema = file.schema_arrow
            _check_columns(path, schema)
            # a small file can expand to any number of rows, so the rows are read in small batches, up to a limit
            most, size, batches = _memory() // 2, 0, []
            for batch in file.iter_batches(BATCH, columns=["image", "label"]):
                size += batch.nbytes
                if size > most:
                    raise DataError(f"{path}: its rows need more than {most / 2**30:.0f} GiB of memory; split the file")
                batches.append(batch)
        table = pa.Table.from_batches(batches, None if batches else _read_schema(schema))
        data = pc.struct_field(table["image"], "bytes")
        if table["label"].null_count:
            row = pc.index(pc.is_null(table["label"]), True).as_py()
            raise DataError(f"{path} row {row}: label is null; give it a class or drop the row")
        labels = torch.tensor(table["label"].cast(pa.int64()).to_numpy())
    except DataError:
        raise
    except (
        MemoryError,
        Exception,
    ) as error:  # for a broken file pyarrow raises its own errors, OSError, ValueError, ...
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a readable parquet file ({cause[:200]}); fetch it again") from error
    return data, labels, names_in(path, schema.metadata or {})


def names_in(path: Path, metadata: dict[bytes, bytes]) -> tuple[str, ...] | None:
    """The class names of the ClassLabel feature `label`, from the metadata that Hugging Face `datasets` writes; None without it.

    Raises:
        DataError: the metadata is broken, or a name is empty or repeated.
    """
    if b"huggingface" not in metadata:
        return None
    try:
        names = json_of(metadata[b"huggingface"], str(path))["info"]["features"]["label"].get("names", [])
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: its huggingface metadata does not describe label; write the file again") from error
    return class_names(names, str(path)) or None


def _read_schema(schema: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([schema.field("image"), schema.field("label")])


def _check_columns(path: Path, schema: pa.Schema) -> None:
    import pyarrow as pa

    kinds = {field.name: field.type for field in schema}
    image, label = kinds.get("image", pa.null()), kinds.get("label", pa.null())
    binary = (pa.binary(), pa.large_binary())
    encoded = pa.types.is_struct(image) and any(field.name == "bytes" and field.type in binary for field in image)
    if not encoded or not pa.types.is_integer(label):
        found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise DataError(f"{path}: {NEEDED}; it has {found or 'none'}")


def _check_range(rows: ParquetRows, labels: Tensor, classes: int | None) -> None:
    wrong = labels < 0 if classes is None else (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        rule = "must not be negative" if classes is None else f"is out of range 0..{classes - 1} ({classes} classes)"
        raise DataError(f"{rows.name(row)}: label {int(labels[row])} {rule}; fix the label or drop the row")


def _numbered(folder: Path, labels: Tensor) -> tuple[str, ...]:
    classes = int(labels.max()) + 1
    if classes > len(labels):
        found = f"label {classes - 1} among {len(labels)} images"
        raise DataError(f"{folder}: {found} leaves classes without images; number the classes 0, 1, 2, ...")
    return tuple(str(number) for number in range(classes))


def _too_large(folder: Path, files: list[Path]) -> bool:
    """Whether the files take more than half of the memory; `datasets` then maps them into memory.

    Raises:
        DataError: they do, and `datasets` is not installed.
    """
    size, memory = sum(path.stat().st_size for path in files), _memory()
    if size <= memory / 2:
        return False
    if find_spec("datasets") is None:
        sizes = f"{size / 2**30:.0f} GiB of parquet files are too much for {memory / 2**30:.0f} GiB of memory"
        raise DataError(f"{folder}: {sizes}; {INSTALL} reads them from the disk, or unpack them as train/CLASS/")
    return True


def _memory() -> int:
    """Bytes of this machine's memory; 16 GiB if the system does not report them."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**34
