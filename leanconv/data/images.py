"""Labelled images, and the two parts of a data set that a run needs: one to train on, one to test on."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from leanconv.core.errors import DataError
from leanconv.data.classes import class_names, places
from leanconv.data.encoded import MAX_PIXELS, Encoded, decode
from leanconv.data.problems import Problems
from leanconv.data.split import HeldOut, stratified
from leanconv.data.stats import channel_stats

SAMPLE = 2000  # images looked at for mean and std where each must be decoded first


class LabelledImages(Dataset[tuple[Tensor, int]], ABC):
    """Images as uint8 tensors (C, H, W), each with the number of its class in `labels` (int64, N).

    `classes` holds the names of these numbers, () where they are not known, and `named` whether the data set gave these
    names itself; both come from the `ImageData` that the images are a part of.
    """

    labels: Tensor
    classes: tuple[str, ...] = ()
    named: bool = False

    def of_classes(self, classes: tuple[str, ...], named: bool) -> Self:
        """These images, saying what their labels mean; a copy where they say something else already."""
        same = (self.classes, self.named) in (((), False), (classes, named))
        images = self if same else copy.copy(self)
        images.classes, images.named = classes, named
        return images

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def channels(self) -> int: ...

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(H, W) of every image; None where sizes vary or are not known."""
        return None

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    @abstractmethod
    def subset(self, rows: Tensor) -> LabelledImages:
        """The images of these rows, in this order."""

    @abstractmethod
    def relabelled(self, labels: Tensor) -> LabelledImages:
        """The same images with other numbers for their classes, whose names are not known yet."""

    @abstractmethod
    def pixels(self) -> Iterator[Tensor]:
        """Pixels (C, ...) to take statistics from."""


class TensorImages(LabelledImages):
    """Images of one size, all decoded in memory.

    Shape:
        images: uint8 (N, C, H, W); labels: integers (N,)
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.ndim != 4 or images.dtype != torch.uint8:
            raise DataError(f"images are {images.dtype} {tuple(images.shape)}: give uint8 (N, C, H, W)")
        self.images, self.labels = images, _checked(labels, len(images))

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        return self.images.shape[2], self.images.shape[3]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def subset(self, rows: Tensor) -> TensorImages:
        return TensorImages(self.images[rows], self.labels[rows]).of_classes(self.classes, self.named)

    def relabelled(self, labels: Tensor) -> TensorImages:
        return TensorImages(self.images, labels)

    def pixels(self) -> Iterator[Tensor]:
        return (block.movedim(1, 0) for block in torch.split(self.images, 4096))


class FileImages(LabelledImages):
    """Images decoded each time they are asked for, to RGB and upright (EXIF); their sizes may vary."""

    def __init__(
        self, encoded: Encoded, labels: Tensor, rows: Tensor | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.rows = torch.arange(len(encoded)) if rows is None else rows
        self.max_pixels = max_pixels
        self.encoded, self.labels = encoded, _checked(labels, len(self.rows))

    @property
    def channels(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return decode(self.encoded, int(self.rows[index]), self.max_pixels), int(self.labels[index])

    def subset(self, rows: Tensor) -> FileImages:
        chosen = FileImages(self.encoded, self.labels[rows], self.rows[rows], self.max_pixels)
        return chosen.of_classes(self.classes, self.named)

    def relabelled(self, labels: Tensor) -> FileImages:
        return FileImages(self.encoded, labels, self.rows, self.max_pixels)

    def pixels(self) -> Iterator[Tensor]:
        sample = torch.linspace(0, len(self) - 1, min(SAMPLE, len(self))).long()
        return (self[index][0] for index in sample.tolist())


@dataclass(frozen=True)
class ImageData:
    """A data set: its classes, its train and test parts, and the statistics that normalise its images.

    Args:
        mean, std: per channel, in [0, 1], of the train part (of at most 2,000 images spread evenly over it where they
            are decoded lazily).
        problems: what was left out.
        held_out: how the test part was taken from the images, where the data set has none of its own.
        named: whether `classes` are names; not where the data set has numbers only, and "0", "1", ... stand for them.
        prepared: the images are floats as the network takes them, prepared by a data set of the user's.
        digest: by which a run knows images again that were handed in from Python; None for those with a name or a folder.
        origin: what `open_data` was given, by the names of the command line's flags; None where it did not open them.

    Raises:
        DataError: classes that are no different names, a label outside them, a class without a training image, parts that
            differ in channels.
    """

    name: str
    classes: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages
    mean: tuple[float, ...]
    std: tuple[float, ...]
    named: bool = True
    problems: Problems = field(default_factory=Problems)
    held_out: HeldOut | None = None
    prepared: bool = False
    digest: str | None = None
    origin: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", class_names(self.classes, self.name))
        check_parts(self.name, self.classes, self.train, self.test)
        for part in ("train", "test"):
            object.__setattr__(self, part, getattr(self, part).of_classes(self.classes, self.named))
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                value = getattr(self, name)
                raise DataError(f"{self.name}: {name}={value} needs one value per channel ({self.channels})")

    @classmethod
    def of(
        cls, name: str, classes: tuple[str, ...], train: LabelledImages, test: LabelledImages, **more: Any
    ) -> ImageData:
        """The data set of these parts, with mean and std measured on train."""
        check_parts(name, class_names(classes, name), train, test)
        return cls(name, classes, train, test, *channel_stats(train.pixels()), **more)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes; () where the data set has numbers only."""
        return self.classes if self.named else ()

    def for_classes(self, known: Sequence[str]) -> ImageData:
        """This data with its classes in the order of a network's, as training that network on it needs them.

        Where one of the two has no names, the data stays as it is.

        Raises:
            SettingError: the classes differ by their names.
        """
        if not known or not self.named or tuple(known) == self.classes:
            return self
        where = torch.tensor(places(known, self.classes, "the network", self.name, whole=True))
        train, test = (part.relabelled(where[part.labels]) for part in (self.train, self.test))
        return replace(self, classes=tuple(known), train=train, test=test)

    @property
    def channels(self) -> int:
        return self.train.channels

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(H, W), or None where sizes vary."""
        sizes = {part.image_size for part in (self.train, self.test)}
        return sizes.pop() if len(sizes) == 1 else None

    def split(self, fraction: float, seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
        """(train, validation): `fraction` of each class of the train part is held out. The test part is not touched.

        Raises:
            SettingError: fraction is not between 0 and 1, or holds out no image at all.
        """
        train, validation = stratified(self.train.labels, fraction, seed)
        return self.train.subset(train), self.train.subset(validation)


def check_parts(name: str, classes: tuple[str, ...], train: LabelledImages, test: LabelledImages) -> None:
    """Raise DataError unless every label names a class, every class has a training image, and both parts are alike."""
    for part, images in (("train", train), ("test", test)):
        if len(images) == 0:
            raise DataError(f"{name}: the {part} part has no image; add some")
        for label in (int(images.labels.min()), int(images.labels.max())):
            if not 0 <= label < len(classes):
                valid = f"0..{len(classes) - 1} ({len(classes)} classes)"
                raise DataError(f"{name}: label {label} in {part} is out of range {valid}; mend the labels")
    counts = torch.bincount(train.labels, minlength=len(classes))
    missing = [classes[i] for i in (counts == 0).nonzero().flatten().tolist()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(f"{name}: class {missing[0]!r}{more} has no image in train; add some or drop the class")
    if train.channels != test.channels:
        raise DataError(f"{name}: train has {train.channels} channels, test {test.channels}; make them equal")


def _checked(labels: Tensor, images: int) -> Tensor:
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or len(labels) != images:
        found = f"{labels.dtype} {tuple(labels.shape)}"
        raise DataError(f"labels are {found}: give one integer for each of {images} images")
    return labels.to(torch.int64)
