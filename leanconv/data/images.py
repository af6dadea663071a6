"""Labelled images, and a data set with the two parts that a run needs: train and test."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from leanconv.core.errors import DataError
from leanconv.data.classes import class_indices, class_names
from leanconv.data.encoded import MAX_PIXELS, Encoded, decode, stored
from leanconv.data.fingerprint import fingerprint
from leanconv.data.problems import Problems
from leanconv.data.split import HeldOut, stratified
from leanconv.data.stats import channel_stats

SAMPLE = 2000  # how many images are decoded to compute mean and std
AT_ONCE = 64  # decoded images of this sample in memory


class LabelledImages(Dataset[tuple[Tensor, int]], ABC):
    """Images as uint8 tensors (C, H, W), with the class index of each image in `labels` (int64, (N,)).

    `classes` holds the class names, or () if they are not known. `named` says whether the data set itself gave these names.
    `ImageData` sets both for its parts. Images that are `prepared` are floats as the network takes them.
    `draws` says whether items may draw random numbers of Python and numpy.
    """

    labels: Tensor
    classes: tuple[str, ...] = ()
    named: bool = False
    prepared: bool = False
    draws: bool = False

    def of_classes(self, classes: tuple[str, ...], named: bool) -> Self:
        """These images with the given class names; a copy if they already have other names."""
        same = (self.classes, self.named) in (((), False), (classes, named))
        images = self if same else copy.copy(self)
        images.classes, images.named = classes, named
        return images

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of each image."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(H, W) of every image; None where sizes vary or are not known."""
        return None

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    @abstractmethod
    def subset(self, rows: Tensor) -> LabelledImages:
        """The images with these row numbers (int64, (M,)), in this order."""

    @abstractmethod
    def relabelled(self, labels: Tensor) -> LabelledImages:
        """The same images with other labels (N,); the class names are then unknown."""

    @abstractmethod
    def pixels(self) -> Iterator[Tensor]:
        """Blocks of uint8 pixels (C, ...) for computing statistics."""

    def contents(self, places: Sequence[int]) -> list[bytes]:
        """What the images at `places` are recognised by, on any machine; empty if nothing is known of them, as here."""
        return []


class TensorImages(LabelledImages):
    """Images of one size, all decoded in memory.

    >>> images = TensorImages(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    >>> len(images), images.channels, images.image_size
    (2, 3, (8, 8))

    Shape:
        images: uint8 (N, C, H, W); labels: integers (N,).

    Raises:
        DataError: the images or the labels have another shape or dtype; channels come first.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.ndim != 4 or images.dtype != torch.uint8:
            raise DataError(f"images are {images.dtype} {tuple(images.shape)}: give uint8 (N, C, H, W)")
        _, channels, height, width = images.shape
        if width in (1, 3, 4) and channels > 4 and height != width:
            raise DataError(
                f"images are {tuple(images.shape)}, which looks like (N, H, W, C) and would be {channels} channels of "
                f"{height}x{width} pixels: give (N, C, H, W), images.permute(0, 3, 1, 2)"
            )
        self.images, self.labels = images, _checked(labels, len(images))

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.images.shape[2], self.images.shape[3]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def subset(self, rows: Tensor) -> TensorImages:
        """The images with these row numbers, in this order."""
        return TensorImages(self.images[rows], self.labels[rows]).of_classes(self.classes, self.named)

    def relabelled(self, labels: Tensor) -> TensorImages:
        """The same images with other labels."""
        return TensorImages(self.images, labels)

    def pixels(self) -> Iterator[Tensor]:
        """All pixels, in blocks of (C, n, H, W)."""
        return (block.movedim(1, 0) for block in torch.split(self.images, 4096))

    def contents(self, places: Sequence[int]) -> list[bytes]:
        """The pixels."""
        return [self.images[place].contiguous().numpy().tobytes() for place in places]


class FileImages(LabelledImages):
    """Images that stay encoded; each access decodes one to RGB and rotates it upright (EXIF). Sizes may vary.

    Args:
        encoded: the encoded images.
        labels: integers (N,), one for each image.
        rows: which of the encoded images these are (int64, (N,)); None means all of them.
        max_pixels: an image with more pixels is refused.
    """

    def __init__(
        self, encoded: Encoded, labels: Tensor, rows: Tensor | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.rows = torch.arange(len(encoded)) if rows is None else rows
        self.max_pixels = max_pixels
        self.encoded, self.labels = encoded, _checked(labels, len(self.rows))

    @property
    def channels(self) -> int:
        """3: all images are decoded to RGB."""
        return 3

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return decode(self.encoded, int(self.rows[index]), self.max_pixels), int(self.labels[index])

    def subset(self, rows: Tensor) -> FileImages:
        """The images with these row numbers, in this order."""
        chosen = FileImages(self.encoded, self.labels[rows], self.rows[rows], self.max_pixels)
        return chosen.of_classes(self.classes, self.named)

    def relabelled(self, labels: Tensor) -> FileImages:
        """The same images with other labels."""
        return FileImages(self.encoded, labels, self.rows, self.max_pixels)

    def pixels(self) -> Iterator[Tensor]:
        """The pixels (C, H, W) of at most 2,000 images, spread evenly over all."""
        sample = torch.linspace(0, len(self) - 1, min(SAMPLE, len(self))).long()
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            for rows in torch.split(sample, AT_ONCE):
                yield from pool.map(lambda row: self[row][0], rows.tolist())

    def contents(self, places: Sequence[int]) -> list[bytes]:
        """The encoded bytes; empty if they cannot be read."""
        return stored(self.encoded, self.rows[list(places)].tolist())


@dataclass(frozen=True)
class ImageData:
    """A data set: its classes, its train and test parts, and the statistics that normalise its images.

    Args:
        name: of the data set, for messages and tables.
        classes: one name for each class.
        train, test: the two parts.
        mean, std: per channel, in [0, 1], of the train part. If images are decoded lazily, at most 2,000 of them are used,
            spread evenly over the part.
        named: False if the data set has only class numbers; `classes` is then "0", "1", ...
        problems: what was left out.
        held_out: how the test part was held out, if the data set had none.
        prepared: the images are floats as the network takes them; a data set of the user's prepared them.
        digest: identifies images that were handed in from Python, so that a run recognises them; None for those with a name
            or a folder.
        origin: the arguments of `open_data`, by the names of the command line's flags; None if `open_data` did not open them.

    Raises:
        DataError: class names are repeated or empty, a label is out of range, a class has no training image, or the parts
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
        """A data set of these two parts; mean and std are computed on the train part.

        >>> images = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
        >>> part = TensorImages(images, torch.tensor([0, 1]))
        >>> ImageData.of("white", ("a", "b"), part, part).mean
        (1.0,)
        """
        check_parts(name, class_names(classes, name), train, test)
        return cls(name, classes, train, test, *channel_stats(train.pixels()), **more)

    @property
    def names(self) -> tuple[str, ...]:
        """The class names; () if the data set has only class numbers."""
        return self.classes if self.named else ()

    @cached_property
    def fingerprint(self) -> str:
        """A hash by which a run recognises these images."""
        return fingerprint(self.train, self.test)

    def for_classes(self, known: Sequence[str]) -> ImageData:
        """This data with its classes in the order of a network's classes; training that network needs this order.

        If the data or the network has no class names, the data is returned unchanged.

        Args:
            known: the class names of the network; () if it has none.

        Raises:
            SettingError: the class names differ.
        """
        if not known or not self.named or tuple(known) == self.classes:
            return self
        where = torch.tensor(class_indices(known, self.classes, "the network", self.name, whole=True))
        train, test = (part.relabelled(where[part.labels]) for part in (self.train, self.test))
        return replace(self, classes=tuple(known), train=train, test=test)

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.train.channels

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(H, W) in pixels; None if sizes vary."""
        sizes = {part.image_size for part in (self.train, self.test)}
        return sizes.pop() if len(sizes) == 1 else None

    def split(self, fraction: float, seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
        """Split the train part into (train, validation). The test part is not touched.

        Args:
            fraction: how much of each class becomes validation, between 0 and 1.
            seed: of the random choice; the same seed gives the same split.

        Raises:
            SettingError: `fraction` is not between 0 and 1, or holds out no image at all.
        """
        train, validation = stratified(self.train.labels, fraction, seed, "validation")
        return self.train.subset(train), self.train.subset(validation)


def check_parts(name: str, classes: tuple[str, ...], train: LabelledImages, test: LabelledImages) -> None:
    """Raise DataError unless every label has a class, every class has a training image, and both parts have equal channels."""
    for part, images in (("train", train), ("test", test)):
        if len(images) == 0:
            raise DataError(f"{name}: the {part} part has no image; add some")
        for label in (int(images.labels.min()), int(images.labels.max())):
            if not 0 <= label < len(classes):
                valid = f"0..{len(classes) - 1} ({len(classes)} classes)"
                raise DataError(f"{name}: label {label} in {part} is out of range {valid}; fix the labels")
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
