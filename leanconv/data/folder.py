"""Folders of image files: one folder per class, or Tiny ImageNet's own layout."""

from __future__ import annotations

from pathlib import Path

import torch

from leanconv.core.errors import DataError
from leanconv.data.encoded import Files
from leanconv.data.gather import gather
from leanconv.data.images import ImageData, LabelledImages

TEST_PARTS = ("test", "val", "validation", "valid")  # the first that is there


def image_folder(folder: Path) -> ImageData:
    """train/CLASS/**/* and test/CLASS/**/* (or val/), the files torchvision's ImageFolder would take; classes by name.

    Raises:
        DataError: a part is missing, empty or has a class that train has not; an image cannot be read.
    """
    classes = tuple(sorted(_folders(folder / "train")))
    if not classes:
        raise DataError(f"{folder / 'train'}: no class folders; put each class's images into train/CLASS/")
    part = next((part for part in TEST_PARTS if (folder / part).is_dir()), None)
    if part is None:
        raise DataError(f"{folder}: no test part; add test/CLASS/ or val/CLASS/ beside train/")
    unknown = sorted(set(_folders(folder / part)) - set(classes))
    if unknown:
        raise DataError(f"{folder / part / unknown[0]}: no such class in train; add it there or remove it here")
    train, test = _class_folders(folder / "train", classes), _class_folders(folder / part, classes)
    return ImageData.of(folder.resolve().name, classes, train, test)


def tiny_imagenet(folder: Path) -> ImageData:
    """Tiny ImageNet as its authors pack it; the test part is their val, as their test has no labels.

    wnids.txt lists the classes, train/WNID/images/*.JPEG are theirs, val/val_annotations.txt labels val/images/*.JPEG.

    Raises:
        DataError: a file is missing or malformed, or names a class that wnids.txt has not.
    """
    classes = tuple(_text(folder / "wnids.txt").split())
    if not classes:
        raise DataError(f"{folder / 'wnids.txt'}: no class; fetch it again")
    if len(set(classes)) != len(classes):
        raise DataError(f"{folder / 'wnids.txt'}: a class is listed twice; fetch it again")
    annotations = folder / "val" / "val_annotations.txt"
    numbers = {name: number for number, name in enumerate(classes)}
    paths, labels = [], []
    for number, line in enumerate(_text(annotations).splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1].strip() not in numbers:
            found = f"{line[:60]!r} is not a file and a class of wnids.txt with a tab between"
            raise DataError(f"{annotations} line {number}: {found}; mend it")
        paths.append(str(folder / "val" / "images" / fields[0]))
        labels.append(numbers[fields[1].strip()])
    if not paths:
        raise DataError(f"{annotations}: no image is listed; fetch it again")
    train = _class_folders(folder / "train", classes)
    test = gather(Files(paths), torch.tensor(labels), "test images")
    return ImageData.of(folder.resolve().name, classes, train, test)


def _class_folders(folder: Path, classes: tuple[str, ...]) -> LabelledImages:
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    numbers = {name: number for number, name in enumerate(classes)}
    found = make_dataset(str(folder), numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
    if not found:
        raise DataError(f"{folder}: no image in its class folders; put images ({' '.join(IMG_EXTENSIONS)}) there")
    paths, labels = zip(*found, strict=True)
    return gather(Files(paths), torch.tensor(labels), f"{folder.name} images")


def _folders(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or 'not a text file'}; fetch it again") from error
