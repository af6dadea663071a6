"""Folders of image files: one folder per class, or Tiny ImageNet's own layout."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from leanconv.core.errors import DataError, LeanconvWarning, SettingError
from leanconv.core.shown import first_names
from leanconv.data.classes import closest_name
from leanconv.data.encoded import MAX_PIXELS, SUFFIXES, Files
from leanconv.data.gather import gather
from leanconv.data.images import ImageData, LabelledImages
from leanconv.data.problems import Problems
from leanconv.data.scan import find_part, folders_in, images_below, images_in
from leanconv.data.split import HeldOut
from leanconv.data.text import read_lines

TRAIN_PARTS = ("train", "training")
TEST_PARTS = ("test", "testing", "val", "validation", "valid", "eval")  # the first one with labelled images is used
SPLIT = "--test-split 0.2 (test_split=0.2) holds out a test part"


class NoTestPart(DataError):
    """The data set has no test part; `test_split` would make one."""


def image_folder(
    folder: Path, problems: Problems | None = None, max_pixels: int = MAX_PIXELS, test_split: float | None = None
) -> ImageData:
    """The images in train/CLASS/**/* and test/CLASS/**/* (or val/): the files that torchvision's ImageFolder reads.

    The classes are sorted by name.

    Args:
        folder: the folder that contains train/, or the class folders themselves.
        problems: collects the images that cannot be read; None refuses them.
        max_pixels: an image with more pixels cannot be read.
        test_split: the fraction of each class to hold out for testing, if the folder has no test part.

    Raises:
        DataError: a part is missing or empty, the test part has a class that the train part does not have, or an image
            cannot be read.
        SettingError: `test_split` is given, and the folder has a test part.
    """
    problems = Problems("refuse") if problems is None else problems
    name = folder.resolve().name
    trains, tests = find_part(folder, TRAIN_PARTS), find_part(folder, TEST_PARTS)
    if not trains and tests:
        raise DataError(f"{folder}: has {tests[0].name}/ and no train/; put the training images into train/CLASS/")
    train = trains[0] if trains else folder
    kinds = folders_in(train)
    if not kinds:
        raise DataError(f"{train}: no class folders; put each class's images into train/CLASS/")
    classes = tuple(kinds)
    test = _test_part(tests, kinds)
    if test is None and test_split is None:
        raise NoTestPart(_no_test(folder, tests))
    if test is not None and test_split is not None:
        raise SettingError(
            f"test_split={test_split} is for data without a test part; {folder} has {test.name}/: leave it out"
        )
    paths, labels = _class_files(train, kinds, classes, problems)
    held_out = None
    if test is None:
        assert test_split is not None
        relative = [path.removeprefix(f"{train}{os.sep}").replace(os.sep, "/") for path in paths]
        held_out, kept, held = HeldOut.of(test_split, relative, labels)
        parts = [([paths[row] for row in rows.tolist()], labels[rows]) for rows in (kept, held)]
    else:
        parts = [(paths, labels), _class_files(test, folders_in(test), classes, problems)]
    found = [
        _gathered(paths, labels, title, problems, max_pixels)
        for (paths, labels), title in zip(parts, (train.name, test.name if test else "held out"), strict=True)
    ]
    problems.settle()
    _name_outsiders(train, *([] if test is None else [test]))
    return ImageData.of(name, classes, *found, problems=problems, held_out=held_out)


def tiny_imagenet(folder: Path, problems: Problems | None = None, max_pixels: int = MAX_PIXELS) -> ImageData:
    """Tiny ImageNet in the layout of its authors. The test part is their val, because their test set has no labels.

    wnids.txt lists the classes, train/WNID/images/*.JPEG holds the images of class WNID, and val/val_annotations.txt labels
    the images in val/images/*.JPEG.

    Args:
        folder, problems, max_pixels: see `image_folder`.

    Raises:
        DataError: a file is missing or malformed, or names a class that wnids.txt does not list.
    """
    problems = Problems("refuse") if problems is None else problems
    way_out = "fetch it again"
    classes = tuple(" ".join(read_lines(folder / "wnids.txt", way_out)).split())
    if not classes:
        raise DataError(f"{folder / 'wnids.txt'}: no class; {way_out}")
    if len(set(classes)) != len(classes):
        raise DataError(f"{folder / 'wnids.txt'}: a class is listed twice; {way_out}")
    annotations = folder / "val" / "val_annotations.txt"
    numbers = {name: number for number, name in enumerate(classes)}
    paths, labels = [], []
    for number, line in enumerate(read_lines(annotations, way_out), start=1):
        fields = line.split("\t")
        if not line.strip():
            continue
        if len(fields) < 2 or fields[1].strip() not in numbers or os.path.basename(fields[0]) != fields[0]:
            found = f"{line[:60]!r} is not a file and a class of wnids.txt with a tab between"
            raise DataError(f"{annotations} line {number}: {found}; fix the line")
        paths.append(str(folder / "val" / "images" / fields[0]))
        labels.append(numbers[fields[1].strip()])
    if not paths:
        raise DataError(f"{annotations}: no image is listed; {way_out}")
    listed = _class_files(folder / "train", folders_in(folder / "train"), classes, problems)
    train = _gathered(*listed, "train", problems, max_pixels)
    test = _gathered(paths, torch.tensor(labels), "test", problems, max_pixels)
    problems.settle()
    return ImageData.of(folder.resolve().name, classes, train, test, problems=problems)


def _test_part(parts: list[Path], kinds: Mapping[str, Path]) -> Path | None:
    """The first folder that has images in folders of known classes. (Kaggle often adds a test/ without labels to val/.)

    Raises:
        DataError: the test part has a class that the train part does not have.
    """
    for part in parts:
        own = folders_in(part)
        if not any(images_below(path) for name, path in own.items() if name in kinds):
            continue
        unknown = [name for name in own if name not in kinds]
        if unknown:
            close = closest_name(unknown[0], tuple(kinds))
            hint = f" (is it {close!r}?)" if close else ""
            raise DataError(f"{part / unknown[0]}: no such class in train{hint}; add it there or remove it here")
        return part
    return None


def _name_outsiders(*parts: Path) -> None:
    """Warn of images beside the class folders; they have no class."""
    for part in parts:
        outside = images_in(part)
        if outside:
            warnings.warn(
                f"{part}: left out what lies beside the class folders ({first_names(outside)}); an image has the class of its "
                "folder",
                LeanconvWarning, stacklevel=4,
            )  # fmt: skip


def _no_test(folder: Path, parts: list[Path]) -> str:
    if not parts:
        return f"{folder}: no test part; add test/CLASS/ or val/CLASS/ beside train/; {SPLIT}"
    part = parts[0]
    if images_below(part) and not folders_in(part):
        return f"{part}: its images have no labels; put them into {part.name}/CLASS/; {SPLIT}"
    return f"{part}: no image in its class folders; put images ({' '.join(SUFFIXES)}) into folders named as train's; {SPLIT}"


def _class_files(
    folder: Path, kinds: Mapping[str, Path], classes: tuple[str, ...], problems: Problems
) -> tuple[list[str], Tensor]:
    """The image files of all classes, and their labels."""
    paths: list[str] = []
    labels: list[int] = []
    for name, number in sorted((name, number) for number, name in enumerate(classes)):  # torchvision's order
        found = images_below(kinds[name], problems) if name in kinds else []
        paths += found
        labels += [number] * len(found)
    if not paths:
        raise DataError(f"{folder}: no image in its class folders; put images ({' '.join(SUFFIXES)}) there")
    return paths, torch.tensor(labels)


def _gathered(paths: list[str], labels: Tensor, title: str, problems: Problems, max_pixels: int) -> LabelledImages:
    return gather(Files(paths, max_pixels), labels, f"{title} images", problems, max_pixels)
