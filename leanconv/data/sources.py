"""From a name or a folder to images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leanconv.core.errors import DataError
from leanconv.data import cifar
from leanconv.data.digits import digits
from leanconv.data.folder import image_folder, tiny_imagenet
from leanconv.data.images import ImageData
from leanconv.data.parquet import parquet_folder

NAMES = ("digits", *cifar.NAMES)


def open_data(name: str | Path, *, root: str | Path | None = None, download: bool = False) -> ImageData:
    """The images called `name`, or those in the folder `name`.

    Args:
        name: "digits" (embedded), "cifar10", "cifar100", or a folder: parquet files, train/CLASS/ with test/CLASS/ or
            val/CLASS/, or Tiny ImageNet as packed by its authors. A folder named as a data set is given as "./cifar10".
        root: where "cifar10" and "cifar100" are looked for; "data" unless given.
        download: fetch them when they are not there. Nothing else uses the network.

    Raises:
        DataError: with one line that says what is wrong and the way out.
    """
    if name == "digits":
        return digits()
    if name in cifar.NAMES:
        return cifar.cifar(str(name), "data" if root is None else root, download)
    folder = Path(name).expanduser()
    try:
        return _open_folder(folder)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: {error.strerror or error}; check the path and its permissions"
        ) from error


def _open_folder(folder: Path) -> ImageData:
    if not folder.exists():
        raise DataError(f"{folder}: no such folder, and no data set of that name ({', '.join(NAMES)})")
    if not folder.is_dir():
        raise DataError(f"{folder}: a file; give the folder that holds it")
    for place in (folder, folder / "data"):  # a clone from the Hugging Face hub has its files in data/
        if any(place.glob("*.parquet")):
            return parquet_folder(place)
    if (folder / "train").is_dir():
        tiny = (folder / "wnids.txt").exists() and (folder / "val" / "images").is_dir()
        return tiny_imagenet(folder) if tiny else image_folder(folder)
    raise DataError(f"{folder}: neither train-*.parquet nor train/CLASS/ in it; give a folder that holds one of them")


def describe(data: ImageData) -> dict[str, Any]:
    """The facts of a data set, ready for JSON."""
    return {
        "name": data.name,
        "classes": list(data.classes),
        "train": len(data.train),
        "test": len(data.test),
        "channels": data.channels,
        "image_size": None if data.image_size is None else list(data.image_size),
    }
