"""From a name or a folder to images."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from leanconv.core.errors import DataError, SettingError
from leanconv.core.settings import check_int
from leanconv.data import cifar
from leanconv.data.digits import digits
from leanconv.data.encoded import MAX_PIXELS
from leanconv.data.folder import SPLIT, TRAIN_PARTS, NoTestPart, image_folder, tiny_imagenet
from leanconv.data.images import ImageData
from leanconv.data.parquet import parquet_folder
from leanconv.data.problems import OnBad, Problems
from leanconv.data.scan import find_part, folders_in, images_below

NAMES = ("digits", *cifar.NAMES)


def open_data(
    name: str | Path, *, root: str | Path | None = None, download: bool = False, on_bad: OnBad = "refuse",
    max_pixels: int = MAX_PIXELS, test_split: float | None = None,
) -> ImageData:  # fmt: skip
    """The images called `name`, or those in the folder `name`.

    Args:
        name: "digits" (embedded), "cifar10", "cifar100", or a folder: parquet files, train/CLASS/ with test/CLASS/ or
            val/CLASS/, or Tiny ImageNet as packed by its authors. A folder named as a data set is given as "./cifar10".
        root: where "cifar10" and "cifar100" are looked for; "data" unless given.
        download: fetch them when they are not there. Nothing else uses the network.
        on_bad: images that cannot be read are left out and noted in ``problems`` ("skip"), or refused, all named at once.
        max_pixels: an image file of more is not decoded, and cannot be read.
        test_split: the fraction of each class to test on, for a folder without a test part, or one of class folders
            alone. The same images are always divided alike; ``held_out`` says how.

    Raises:
        DataError: with one line that says what is wrong and the way out.
        SettingError: a setting out of its range, or `test_split` for data that has a test part.
    """
    check_int("max_pixels", max_pixels)
    problems = Problems(on_bad)
    if test_split is not None and (name == "digits" or name in cifar.NAMES):
        raise SettingError(f"test_split={test_split} is for data without a test part; {name} has one: leave it out")
    origin: dict[str, Any] = {"data": str(name)}
    if name == "digits":
        return replace(digits(), origin=origin)
    if name in cifar.NAMES:
        place = Path("data" if root is None else root)
        return replace(cifar.cifar(str(name), place, download), origin=origin | {"data_root": str(place.resolve())})
    folder = Path(name).expanduser()
    origin = {"data": str(folder.resolve()), "on_bad": on_bad, "max_pixels": max_pixels, "test_split": test_split}
    try:
        return replace(_open_folder(folder, problems, max_pixels, test_split), origin=origin)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: {error.strerror or error}; check the path and its permissions"
        ) from error


def _open_folder(folder: Path, problems: Problems, max_pixels: int, test_split: float | None) -> ImageData:
    if not folder.exists():
        raise DataError(f"{folder}: no such folder, and no data set of that name ({', '.join(NAMES)})")
    if not folder.is_dir():
        raise DataError(f"{folder}: a file; give the folder that holds it")
    for place in (folder, folder / "data"):  # a clone from the Hugging Face hub has its files in data/
        if any(not path.name.startswith(".") for path in place.glob("*.parquet")):  # macOS leaves ._train.parquet
            return parquet_folder(place, problems, max_pixels, test_split)
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
        raise DataError(f"{missing}, but in {inner[0]}/ there is; give {folder / inner[0]}")
    if any(images_below(path) for path in folders_in(folder).values()):
        raise NoTestPart(f"{missing}; give a folder that holds one of them; of one with class folders alone {SPLIT}")
    raise DataError(f"{missing}; give a folder that holds one of them")


def describe(data: ImageData) -> dict[str, Any]:
    """The facts of a data set, ready for JSON."""
    return {
        "name": data.name,
        "classes": list(data.classes),
        "train": len(data.train),
        "test": len(data.test),
        "channels": data.channels,
        "image_size": None if data.image_size is None else list(data.image_size),
        **({} if data.held_out is None else {"held_out": asdict(data.held_out)}),
        **({} if data.digest is None else {"digest": data.digest}),
    }
