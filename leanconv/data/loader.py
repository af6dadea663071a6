"""Batches of normalised images, reproducible from a seed and an epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from leanconv.core.errors import DataError, SettingError
from leanconv.core.generators import fixed_seed, torch_seed
from leanconv.data.images import LabelledImages, TensorImages
from leanconv.data.sampling import Sampling
from leanconv.data.seeds import generator, mix
from leanconv.data.transforms import (
    AUGMENTS,
    PAPERS,
    Crop,
    Transform,
    alternating,
    eval_transform,
    flips,
    normalise,
    random_crop_flip,
    train_transform,
)

Batch = tuple[Tensor, Tensor]


class Epochs(ABC):
    """Batches in the order of a `Sampling`. Each iteration is the next epoch; `set_epoch(e)` chooses epoch e.

    Without shuffling, each iteration is the same epoch: what a data set draws for its images does not depend on how often they
    were read before, so that a resumed run measures what it would have measured.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.epoch = self.first = 0

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Let the next iteration be this epoch, from its batch `first` on, both counted from 0."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return self.sampling.batches()

    def __iter__(self) -> Iterator[Any]:
        epoch, first = self.epoch, self.first
        self.epoch, self.first = epoch + self.sampling.shuffle, 0
        return self.batches_from(epoch, first) if first else self.batches(epoch)

    @abstractmethod
    def batches(self, epoch: int) -> Iterator[Any]:
        """The batches of one epoch."""

    def batches_from(self, epoch: int, first: int) -> Iterator[Any]:
        """The batches of one epoch without the first ones; a loader that need not make these overrides this."""
        return islice(self.batches(epoch), first, None)


class Loader(Epochs):
    """Batches of (float32 images, int64 labels).

    Args:
        images, sampling: which images, in which order.
        finish: changes a whole batch at the end, on the device of the batch.
        raw: leave `finish` to the caller.
        mirrors: the images that an alternating flip mirrors in even epochs, bool (N,); in odd epochs it mirrors the others.
    """

    def __init__(
        self, images: LabelledImages, sampling: Sampling, finish: Transform, raw: bool, mirrors: Tensor | None = None
    ) -> None:
        super().__init__(sampling)
        self.images, self.finish, self.raw, self.mirrors = images, finish, raw, mirrors

    def finished(self, images: Tensor) -> Tensor:
        """A batch as this loader yields it."""
        return images if self.raw else self.finish(images)

    def mirrored(self, epoch: int) -> Tensor | None:
        """The images that are mirrored in an epoch; None without an alternating flip."""
        return None if self.mirrors is None else self.mirrors ^ bool(epoch % 2)

    @abstractmethod
    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""


class MemoryLoader(Loader):
    """Batches of images in memory; this process augments a whole batch at a time."""

    images: TensorImages

    def __init__(
        self,
        images: TensorImages,
        sampling: Sampling,
        finish: Transform,
        raw: bool,
        change: Callable[..., Tensor],
        mirrors: Tensor | None = None,
    ) -> None:
        super().__init__(images, sampling, finish, raw, mirrors)
        self.change = change

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        # All processes draw for the images of all processes and take their own numbers, so that the number of processes
        # does not change what is drawn for an image
        draw, mirrored = generator(self.sampling.seed, epoch, 0, 1), self.mirrored(epoch)
        for rows in torch.split(self.sampling.order(epoch), self.sampling.batch_size)[: len(self)]:
            own = {} if mirrored is None else {"mirror": mirrored[rows]}
            yield self.finished(self.change(self.images.images[rows], draw, **own)), self.images.labels[rows]


class ItemLoader(Loader):
    """Batches of images that are decoded and transformed one by one, in worker processes if `workers` is above 0."""

    def __init__(
        self,
        images: LabelledImages,
        sampling: Sampling,
        finish: Transform,
        raw: bool,
        transform: Transform,
        workers: int,
        mirrors: Tensor | None = None,
    ) -> None:
        super().__init__(images, sampling, finish, raw, mirrors)
        self.transform, self.workers = transform, workers

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch.

        Raises:
            DataError: an image cannot be decoded.
        """
        return self.batches_from(epoch, 0)

    def batches_from(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of one epoch without the first ones, whose images are not decoded: each image has its own seed."""
        loader = DataLoader(
            _Items(self.images, self.transform, (self.sampling.seed, epoch), self.mirrored(epoch)),
            self.sampling.batch_size,
            sampler=self.sampling.order(epoch)[first * self.sampling.batch_size :].tolist(),
            num_workers=self.workers,
            drop_last=self.sampling.drop_last,
            generator=generator(
                self.sampling.seed, epoch
            ),  # without it, each iteration would advance the global generator
        )
        try:
            for images, labels in loader:
                yield self.finished(images), labels
        except DataError as error:
            if not self.workers:
                raise
            error.with_traceback(None)  # the traceback would keep the workers alive, and each late end takes 5 s
            line = str(error).strip().splitlines()[-1]  # the last line of the worker's traceback, which arrives as text
            raise DataError(line.split("DataError: ", 1)[-1]) from error


class _Items(Dataset[tuple[Tensor, int]]):
    """Transformed images. Each image has its own seed, so the result does not depend on the number of workers."""

    def __init__(
        self, images: LabelledImages, transform: Transform, key: tuple[int, int], mirrored: Tensor | None
    ) -> None:
        self.images, self.transform, self.key, self.mirrored = images, transform, key, mirrored
        self.seeded = fixed_seed if images.draws else torch_seed  # the first takes five times as long

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        with self.seeded(mix(*self.key, row)):  # a data set of the user's may draw too
            image, label = self.images[row]
            changed = self.transform(image)
            flip = self.mirrored is not None and bool(self.mirrored[row])
            return (changed.flip(-1) if flip else changed.contiguous()), label


def make_loader(
    images: LabelledImages,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    augment: str = "none",
    crop: Crop = PAPERS,
    extra: Sequence[Transform] = (),
    image_size: int | tuple[int, int] | None = None,
    train: bool,
    seed: int = 0,
    workers: int = 0,
    channels_last: bool = True,
    drop_last: bool = False,
    ten_crop: bool = False,
    rank: int = 0,
    world_size: int = 1,
    raw: bool = False,
) -> Loader:
    """A loader that yields batches of (float32 images (N, C, H, W), int64 labels (N,)). See `Epochs` for its epochs.

    >>> from leanconv.data import open_data
    >>> data = open_data("digits")
    >>> loader = make_loader(data.test, mean=data.mean, std=data.std, batch_size=64, train=False)
    >>> images, labels = next(iter(loader))
    >>> images.shape, labels.shape, len(loader)
    (torch.Size([64, 1, 8, 8]), torch.Size([64]), 6)

    Args:
        images: what to load.
        mean, std: one value per channel, in [0, 1]; the loader yields (image / 255 - mean) / std.
        batch_size: images in a batch.
        augment: one of `AUGMENTS`; it only acts if `train` is true. Images that a data set prepares itself are not augmented.
        crop: the padding of random crops and the kind of flip.
        extra: further transforms of one image, after `augment`, if `train` is true; see `extra_transforms`. Images in memory are
            then prepared one by one, and `workers` makes this faster.
        image_size: side of the square that images are resized to, in pixels, or (height, width); for training, these must be
            equal if images are resized. None keeps their size; images of varying size need a value. See `eval_transform`.
        train: shuffle and augment.
        seed: of the order and the augmentation.
        workers: processes that decode and transform; unused if whole batches in memory are transformed.
        channels_last: the memory format of the batches.
        drop_last: leave out a last batch that is not full.
        ten_crop: if `train` is false, yield (N, 10, C, H, W): the four corners and the centre, then the same mirrored.
        rank, world_size: the index of this process, and the number of processes.
        raw: yield the images before normalisation, uint8 as a rule: a quarter of the bytes to move to a GPU. ``loader.finish``
            then normalises a batch, on its device.

    Raises:
        SettingError: a setting is out of its range.
        DataError: an image cannot be decoded; raised while iterating.
    """
    if augment not in AUGMENTS:
        raise SettingError(f"augment={augment!r} must be one of {', '.join(AUGMENTS)}")
    if len(mean) != images.channels or len(std) != images.channels or min(std) <= 0:
        raise SettingError(f"mean={mean} and std={std} need one value per channel ({images.channels}), std above 0")
    if workers < 0:
        raise SettingError(f"workers={workers} must not be negative; 0 works in this process")
    if ten_crop and train:
        raise SettingError("ten_crop=True is an evaluation; use it with train=False")
    if images.prepared:  # floats as the network takes them: a crop would pad them with 0, which is no black here
        augment, extra = "none", ()
    own = images.image_size
    size = _size(image_size, own, train)
    sampling = Sampling(len(images), batch_size, train, seed, drop_last, rank, world_size)
    if augment in ("crop", "crop_flip") and crop.pad_mode == "reflect" and max(crop.padding(size)) >= min(size):
        raise SettingError(
            f"crop_pad={max(crop.padding(size))} must be below the image's side {min(size)} to reflect it"
        )
    mirrors = alternating(len(images), seed) if train and flips(augment) and crop.flip == "alternating" else None
    finish = partial(normalise, mean=tuple(mean), std=tuple(std), channels_last=channels_last)
    one_by_one = train and (augment == "random_resized_crop" or bool(extra))
    if isinstance(images, TensorImages) and size == own and not one_by_one:
        if train and augment != "none":
            change = partial(random_crop_flip, flip=flips(augment), crop=crop, share=(rank, world_size))
            return MemoryLoader(images, sampling, finish, raw, change, mirrors)
        view = eval_transform(size, ten_crop)
        return MemoryLoader(images, sampling, finish, raw, partial(_view, view=view))
    transform = train_transform(augment, size, crop, extra) if train else eval_transform(size, ten_crop)
    return ItemLoader(images, sampling, finish, raw, transform, workers, mirrors)


def _view(images: Tensor, _: torch.Generator, view: Transform) -> Tensor:
    return view(images)


def _size(asked: int | tuple[int, int] | None, own: tuple[int, int] | None, train: bool) -> tuple[int, int]:
    if asked is None and own is None:
        raise SettingError("image_size=None needs images of one size, and these vary in size; give a size, such as 224")
    size = own if asked is None else (asked, asked) if isinstance(asked, int) else (asked[0], asked[1])
    assert size is not None
    if min(size) < 1 or (train and size != own and size[0] != size[1]):
        rule = "must be positive, and square where images are resized for training"
        raise SettingError(f"image_size={asked} {rule}; {max(*size, 1)} would do")
    return size
