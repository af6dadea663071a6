"""Images that a user brings from Python: torch data sets, tensors, or what leanconv opens itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from leanconv.core.errors import DataError, SettingError
from leanconv.core.generators import fixed_seed
from leanconv.core.shown import kind
from leanconv.data.classes import closest_name, composed
from leanconv.data.encoded import as_rgb
from leanconv.data.fingerprint import spread
from leanconv.data.from_run import check_as_in_runs, open_as_in_run
from leanconv.data.images import SAMPLE, ImageData, LabelledImages, TensorImages, check_parts
from leanconv.data.split import HeldOut

Part = LabelledImages | Dataset[Any] | tuple[Tensor, Tensor]
# a name or a folder; images that are open; (train, test); or (images, labels) to hold a test part out of
DataLike = str | Path | ImageData | tuple[Part, Part]
TEST_SPLIT = 0.2
PLAIN = ("L", "LA", "RGB", "RGBA")  # modes of PIL whose channels are kept; the others become RGB, as in a folder


class DatasetImages(LabelledImages):
    """A torch data set of (image, label): PIL images, uint8 tensors (C, H, W), or floats, which the network takes as they are.

    An image may also be an array of numpy, uint8 (H, W, 3) or (H, W, 1). `label_of` says what may be a label.

    Args:
        dataset: one with a length whose items are read by number.
        rows: which items; None takes all.

    Raises:
        DataError: an item is no (image, label).
    """

    draws = True

    def __init__(self, dataset: Dataset[Any], labels: Tensor, rows: Tensor | None = None) -> None:
        self.dataset = dataset
        self.rows = torch.arange(len(labels)) if rows is None else rows
        self.labels = labels
        seen = [self._image(int(self.rows[place])) for place in spread(len(self.rows))]
        self._channels = seen[0].shape[0]
        self.prepared = seen[0].is_floating_point()
        sizes = {(image.shape[1], image.shape[2]) for image in seen}
        self._size = sizes.pop() if len(sizes) == 1 else None

    @property
    def channels(self) -> int:
        return self._channels

    @property
    def image_size(self) -> tuple[int, int] | None:
        return self._size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = int(self.rows[index])
        image = self._image(row)
        if image.shape[0] != self._channels or self._size not in (None, image.shape[1:]):
            wanted = (self._channels, *(self._size or ("H", "W")))
            raise DataError(
                f"item {row} of the data set is {tuple(image.shape)} and others are {wanted}; make them alike"
            )
        return image, int(self.labels[index])

    def _image(self, row: int) -> Tensor:
        return image_of(item_of(self.dataset, row)[0], row)

    def subset(self, rows: Tensor) -> DatasetImages:
        chosen = DatasetImages(self.dataset, self.labels[rows], self.rows[rows])
        return chosen.of_classes(self.classes, self.named)

    def relabelled(self, labels: Tensor) -> DatasetImages:
        return DatasetImages(self.dataset, labels, self.rows)

    def contents(self, places: Sequence[int]) -> list[bytes]:
        """The mean absolute values to three digits, with which the same items come again on another machine.

        All are read twice, from the same random state. If one differs, the data set draws at random, and nothing is known of it.
        """
        read = []
        for _ in range(2):
            with fixed_seed():
                read.append([float(self[place][0].double().abs().mean()) for place in places])
        return [f"{value:.3g}".encode() for value in read[0]] if read[0] == read[1] else []

    def pixels(self) -> Iterator[Tensor]:
        for place in spread(len(self), SAMPLE):
            with fixed_seed(place):  # a data set that draws at random gives the same statistics again
                image = self[place][0]
            yield image


def as_images(data: DataLike, *, test_split: float | None = None, networks: Iterable[object] = ()) -> ImageData:
    """`data` as leanconv trains and tests on it.

    A data set that gives float tensors is taken as it is: its own transform prepares the images, and nothing else changes or
    normalises them. PIL images and uint8 tensors are augmented and normalised as `TrainConfig` says.

    Args:
        data: a name or a folder (`open_data`); an `ImageData`; (train, test), each a torch Dataset of (image, label) or a pair of
            tensors (uint8 images (N, C, H, W), labels (N,)); or one such pair of tensors.
        test_split: the fraction of each class to test on, where there is no test part; for a pair of tensors a fifth by default.
        networks: as in `open_as_in_run`: what their runs held out of these images is the test part.

    Raises:
        DataError: it is something else, or cannot be used.
        SettingError: `test_split` for data that has a test part, or another one than that of a network's run.
    """
    if isinstance(data, str | Path):
        return open_as_in_run(data, networks, test_split=test_split)
    images = _handed_in(data, test_split)
    check_as_in_runs(images, networks)
    return images


def _handed_in(data: DataLike, test_split: float | None) -> ImageData:
    """Images that are no name and no folder."""
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        images, labels = cast(tuple[Tensor, Tensor], data)
        return _divided(TensorImages(images, labels), TEST_SPLIT if test_split is None else test_split)
    if test_split is not None:
        raise SettingError(f"test_split={test_split} is for data without a test part; this has one: leave it out")
    if isinstance(data, ImageData):
        return data
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise DataError(
            f"data is a {type(data).__name__}: give a name, a folder, or (train, test), two torch Datasets of (image, label)"
        )
    return _pair(data[0], data[1])


def _pair(train: Part, test: Part) -> ImageData:
    parts = part_of(train, "train"), part_of(test, "test")
    prepared = [isinstance(part, DatasetImages) and part.prepared for part in parts]
    if prepared[0] != prepared[1]:
        raise DataError("one part gives float tensors and the other does not; give both the same transform")
    classes, named = _classes(train, *parts)
    others, also_named = _names(test)
    if named and also_named and others != classes:
        parts = parts[0], _in_the_order_of(classes, parts[1], others)
    name = type(train).__name__ if isinstance(train, Dataset) else "images"
    facts: dict[str, Any] = {"named": named, "prepared": prepared[0], "digest": _digest(*parts)}
    if not prepared[0]:
        return ImageData.of(name, classes, *parts, **facts)
    check_parts(name, classes, *parts)
    channels = parts[0].channels  # (x / 255 - mean) / std leaves floats as they are with these
    return ImageData(name, classes, *parts, (0.0,) * channels, (1 / 255,) * channels, **facts)


def _divided(images: TensorImages, fraction: float) -> ImageData:
    held, train, test = HeldOut.of(fraction, map(str, range(len(images))), images.labels)
    parts = images.subset(train), images.subset(test)
    classes, named = _classes(None, *parts)
    return ImageData.of("images", classes, *parts, named=named, held_out=held, digest=_digest(*parts))


def part_of(part: Part, name: str) -> LabelledImages:
    """A part of a data set as leanconv reads it.

    Raises:
        DataError: it is no data set whose items are read by number, or it is empty.
    """
    if isinstance(part, LabelledImages):
        return part
    if isinstance(part, tuple | list) and len(part) == 2 and all(isinstance(entry, Tensor) for entry in part):
        return TensorImages(*part)
    if isinstance(part, DataLoader):
        raise DataError(f"the {name} part is a DataLoader: give its data set, loader.dataset; leanconv batches it")
    if isinstance(part, IterableDataset) or not hasattr(part, "__getitem__") or not hasattr(part, "__len__"):
        raise DataError(
            f"the {name} part is a {type(part).__name__}: give a torch Dataset with a length, read by number"
        )
    if len(cast(Sized, part)) == 0:
        raise DataError(f"the {name} part has no image; add some")
    return DatasetImages(cast(Dataset[Any], part), labels_of(cast(Dataset[Any], part)))


def item_of(dataset: Dataset[Any], row: int) -> tuple[Any, Any]:
    """The image and the label of an item, as the data set gives them.

    Raises:
        DataError: the item is no pair.
    """
    item = dataset[row]
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    raise DataError(
        f"item {row} of the data set is {kind(item)}: give (image, label), in a data set around it whose __getitem__ "
        "returns these two"
    )


def image_of(image: Any, row: int) -> Tensor:
    """The image of an item as a tensor (C, H, W), uint8 or float.

    Raises:
        DataError: it is no image.
    """
    if hasattr(image, "getbands"):  # PIL
        from torchvision.transforms.v2.functional import pil_to_tensor

        image = pil_to_tensor(image if image.mode in PLAIN else as_rgb(image))
    elif isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in (1, 3):
        image = torch.from_numpy(image.transpose(2, 0, 1).copy())
    if (
        not isinstance(image, Tensor)
        or image.ndim != 3
        or not (image.dtype == torch.uint8 or image.is_floating_point())
    ):
        raise DataError(
            f"the image of item {row} of the data set is {kind(image)}: give a PIL image, a tensor (C, H, W), uint8 or "
            "float, or an array of numpy, uint8 (H, W, 3)"
        )
    return image if image.dtype == torch.uint8 else image.float()


def label_of(label: Any, row: int) -> int:
    """The label of an item: a whole number, also as a float or as a tensor or an array with one number.

    Raises:
        DataError: it is something else.

    >>> label_of(torch.tensor([2]), 0), label_of(3.0, 1)
    (2, 3)
    """
    numbers = (
        label.numel() if isinstance(label, Tensor) else label.size if isinstance(label, np.ndarray | np.generic) else 0
    )
    value = label.item() if numbers == 1 else label
    if isinstance(value, int | float) and value == value // 1 and abs(value) < 2**63:
        return int(value)
    one_hot = ", label.argmax() of one number for each class" if numbers > 1 else ""
    raise DataError(
        f"the label of item {row} of the data set is {kind(value)}, no whole number: give the number of its class{one_hot}"
    )


def labels_of(dataset: Dataset[Any]) -> Tensor:
    """The labels of all items: what the data set lists in ``targets`` or ``labels``, if its items agree, else read one by one.

    Sixteen items and one of each listed class are compared, which shows any change that depends on the class.

    Raises:
        DataError: an item is no pair, or its label is no whole number.
    """
    count = len(dataset)  # type: ignore[arg-type]

    def read(row: int) -> int:
        return label_of(item_of(dataset, row)[1], row)

    listed = _listed(dataset)
    if listed is not None and len(listed) == count:
        places = {*spread(count), *(int((listed == label).nonzero()[0]) for label in listed.unique())}
        if all(read(place) == int(listed[place]) for place in places):
            return listed
    return torch.tensor([read(row) for row in range(count)])


def _listed(dataset: Any) -> Tensor | None:
    if isinstance(dataset, Subset):
        whole = _listed(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(dataset.indices)]
    for name in ("targets", "labels"):
        try:
            found = torch.as_tensor(getattr(dataset, name))
        except (AttributeError, TypeError, ValueError, RuntimeError):
            continue
        if found.ndim == 1 and not found.is_floating_point():
            return found.to(torch.int64)
    return None


def _classes(dataset: Any, train: LabelledImages, test: LabelledImages) -> tuple[tuple[str, ...], bool]:
    """The names of the classes, and whether the data set gives them; else their numbers."""
    names, named = _names(dataset)
    if names:
        return names, named
    count = 1 + max(int(part.labels.max()) if len(part) else 0 for part in (train, test))
    return tuple(map(str, range(count))), False


def _names(dataset: Any) -> tuple[tuple[str, ...], bool]:
    """The classes that a data set lists, () if it lists none, and whether they are names and not numbers."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", ())
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        return (), False
    return tuple(names), not isinstance(dataset, LabelledImages) or dataset.named


def _in_the_order_of(classes: tuple[str, ...], test: LabelledImages, own: tuple[str, ...]) -> LabelledImages:
    """The test part, whose classes are `own`, with the labels of the train part's `classes`.

    Raises:
        DataError: the train part does not have a class, or a label has no name.
    """
    known, found = composed(classes), composed(own)
    strangers = [name for name in found if name not in known]
    if strangers:
        close = closest_name(strangers[0], classes)
        hint = f" (is it {close!r}?)" if close else ""
        raise DataError(
            f"the test part has the class {strangers[0]!r}, which the train part does not have{hint}; name the classes alike"
        )
    if int(test.labels.max()) >= len(own):
        raise DataError(
            f"the test part has label {int(test.labels.max())} and {len(own)} classes; fix its labels or classes"
        )
    return test.relabelled(torch.tensor([known.index(name) for name in found])[test.labels])


def _digest(*parts: LabelledImages) -> str:
    """By which a run knows the images again: of the labels, and of the pixels where they are in memory."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.labels.numpy().tobytes())
        if isinstance(part, TensorImages):
            total.update(part.images.contiguous().numpy().tobytes())
    return total.hexdigest()[:16]
