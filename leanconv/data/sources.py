"""Open a data set by its name or its folder."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from leanconv.core.errors import DataError, SettingError
from leanconv.core.settings import check_int
from leanconv.data import arrow, cifar
from leanconv.data.digits import digits
from leanconv.data.encoded import MAX_PIXELS
from leanconv.data.fingerprint import FINGERPRINT, NORMALISATION
from leanconv.data.folder import SPLIT, TRAIN_PARTS, NoTestPart, image_folder, tiny_imagenet
from leanconv.data.images import ImageData
from leanconv.data.parquet import parquet_folder
from leanconv.data.problems import OnBad, Problems
from leanconv.data.scan import find_part, folders_in, images_below
from leanconv.data.shards import are_shards, shards

NAMES = ("digits", *cifar.NAMES)


def open_data(
    name: str | Path, *, root: str | Path | None = None, download: bool = False, on_bad: OnBad = "refuse",
    max_pixels: int = MAX_PIXELS, test_split: float | None = None,
) -> ImageData:  # fmt: skip
    """Open the data set `name`, or the data set in the folder `name`.

    >>> data = open_data("digits")
    >>> data.classes[:3], data.channels, data.image_size
    (('0', '1', '2'), 1, (8, 8))

    Args:
        name: "digits" (embedded), "cifar10", "cifar100"; a folder: parquet files, WebDataset shards (train-*.tar), a folder of
            `save_to_disk` of Hugging Face's datasets, train/CLASS/ with test/CLASS/ or val/CLASS/, or Tiny ImageNet in its
            authors' layout; or a pattern of shards: ``shards/train-{0000..0127}.tar``. Write "./cifar10" for a folder with
            the name of a data set.
        root: the folder that contains the files of "cifar10" and "cifar100"; "data" by default.
        download: fetch these files if they are missing. Nothing else uses the network.
        on_bad: "skip" leaves out images that cannot be read, and notes them in ``problems``; "refuse" raises one error that
            names all of them.
        max_pixels: an image with more pixels is not decoded, and counts as one that cannot be read.
        test_split: the fraction of each class to hold out for testing, for a folder without a test part or with class
            folders alone. The same images are always split in the same way; ``held_out`` says how.

    Raises:
        DataError: the data cannot be read; one line says what is wrong and the way out.
        SettingError: a setting is out of its range, or `test_split` is given for data with a test part.
    """
    check_int("max_pixels", max_pixels)
    problems = Problems(on_bad)
    if test_split is not None and (name == "digits" or name in cifar.NAMES):
        raise SettingError(
            f"test_split={test_split} is for data without a test part; {name} has a test part: leave test_split out"
        )
    origin: dict[str, Any] = {"data": str(name)}
    if name == "digits":
        return replace(digits(), origin=origin)
    if name in cifar.NAMES:
        place = Path("data" if root is None else root).expanduser()
        return replace(cifar.cifar(str(name), place, download), origin=origin | {"data_root": str(place.resolve())})
    folder = Path(name).expanduser()
    pattern = str(name) if "://" in str(name) else os.path.abspath(folder)
    whole = pattern if are_shards(str(name)) else str(folder.resolve())
    origin = {"data": whole, "on_bad": on_bad, "max_pixels": max_pixels, "test_split": test_split}
    try:
        if are_shards(str(name)):
            return replace(shards(pattern, problems, max_pixels, test_split), origin=origin)
        return replace(_open_folder(folder, problems, max_pixels, test_split), origin=origin)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: {error.strerror or error}; check the path and its permissions"
        ) from error


def _open_folder(folder: Path, problems: Problems, max_pixels: int, test_split: float | None) -> ImageData:
    if not folder.exists():
        raise DataError(f"{folder}: no such folder, and no data set of that name ({', '.join(NAMES)})")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; give the folder that contains the data")
    for place in (folder, folder / "data"):  # a clone from the Hugging Face hub has its files in data/
        if any(not path.name.startswith(".") for path in place.glob("*.parquet")):  # macOS leaves ._train.parquet
            return parquet_folder(place, problems, max_pixels, test_split)
        if any(not path.name.startswith(".") for path in place.glob("*.tar")):
            return shards(str(place / "*.tar"), problems, max_pixels, test_split)
    if arrow.is_saved(folder):
        return arrow.saved_dataset(folder, problems, max_pixels, test_split)
    if (folder / "train").is_dir() and (folder / "wnids.txt").exists() and (folder / "val" / "images").is_dir():
        if test_split is not None:
            raise SettingError(
                f"test_split={test_split} is for data without a test part; Tiny ImageNet has val/: leave it out"
            )
        return tiny_imagenet(folder, problems, max_pixels)
    if find_part(folder, TRAIN_PARTS) or test_split is not None:
        return image_folder(folder, problems, max_pixels, test_split)
    inner = [path.name for path in folders_in(folder).values() if find_part(path, TRAIN_PARTS)]
    missing = f"{folder}: neither train-*.parquet nor train/CLASS/ in it"
    if inner:
        raise DataError(f"{missing}, but {inner[0]}/ has one of them; give {folder / inner[0]}")
    if any(images_below(path) for path in folders_in(folder).values()):
        raise NoTestPart(f"{missing}; give a folder that has one of them; for class folders alone, {SPLIT}")
    raise DataError(f"{missing}; give a folder that holds one of them")


def describe(data: ImageData) -> dict[str, Any]:
    """Name, classes, sizes, split and statistics of a data set, as values for a JSON file.

    >>> describe(open_data("digits"))["train"]
    1442
    """
    return {
        "name": data.name,
        "classes": list(data.classes),
        "train": len(data.train),
        "test": len(data.test),
        "channels": data.channels,
        "image_size": None if data.image_size is None else list(data.image_size),
        **({} if data.held_out is None else {"held_out": asdict(data.held_out)}),
        **({} if data.digest is None else {"digest": data.digest}),
        FINGERPRINT: data.fingerprint,
        NORMALISATION: {"mean": [*data.mean], "std": [*data.std]},
    }
