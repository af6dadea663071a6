"""Batches of photos and their objects, as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from leanconv.core.errors import DataError
from leanconv.data.encoded import MAX_PIXELS, Files, decode
from leanconv.data.loader import Epochs
from leanconv.data.sampling import Sampling
from leanconv.data.seeds import generator
from leanconv.detect.config import DetectConfig
from leanconv.detect.data import Photo
from leanconv.train.feed import Resumable, per_process

MOST_IN_A_ROW = 50  # more unreadable photos in a row are an error
Target = dict[str, Tensor]
Batch = tuple[list[Tensor], list[Target]]


def read_file(path: Path, max_pixels: int = MAX_PIXELS, *, upright: bool = True) -> Tensor:
    """An image file as float32 RGB (3, H, W) in [0, 1].

    Args:
        path: the file.
        max_pixels: an image with more pixels is refused.
        upright: rotate the image according to EXIF; False keeps the pixels as they are stored.

    Raises:
        DataError: the file cannot be decoded.
    """
    return decode(Files([str(path)], max_pixels), 0, max_pixels, upright=upright).float() / 255


def read_image(photo: Photo) -> Tensor:
    """A photo as float32 RGB (3, H, W) in [0, 1], rotated upright, unless the annotations refer to the stored orientation.

    Raises:
        DataError: the file cannot be decoded, or its size differs from the annotations.
    """
    limit = max(photo.height * photo.width, MAX_PIXELS)
    image = read_file(photo.path, limit)
    if image.shape[1:] == (photo.width, photo.height) and photo.width != photo.height:
        image = read_file(photo.path, limit, upright=False)
    if image.shape[1:] != (photo.height, photo.width):
        found, said = f"{image.shape[2]}x{image.shape[1]}", f"{photo.width}x{photo.height}"
        raise DataError(f"{photo.path}: {found} pixels where the annotations say {said}; fix or drop this image")
    return image


def target_of(photo: Photo, masks: bool) -> Target:
    """The objects of a photo in the format of torchvision's detectors.

    Args:
        photo: with n objects.
        masks: also return the masks.

    Shape:
        boxes: float32 (n, 4); labels: int64 (n,); masks: uint8 (n, H, W).
    """
    objects = photo.objects
    target = {
        "boxes": torch.tensor([instance.box for instance in objects], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([instance.label for instance in objects], dtype=torch.int64),
    }
    if masks:
        target["masks"] = torch.from_numpy(photo.masks()).to(torch.uint8)
    return target


def flipped(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror an image (3, H, W) and its target from left to right.

    >>> image, target = flipped(torch.zeros(3, 4, 10), {"boxes": torch.tensor([[1.0, 0.0, 3.0, 4.0]])})
    >>> target["boxes"].tolist()
    [[7.0, 0.0, 9.0, 4.0]]
    """
    width = image.shape[2]
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    turned = target | {"boxes": torch.stack([width - x2, y1, width - x1, y2], dim=1)}
    if "masks" in target:
        turned["masks"] = target["masks"].flip(2)
    return image.flip(2), turned


class _Items(Dataset[tuple[Tensor, Target] | str]):
    """Images with their targets, each flipped with its own seed. For an image that cannot be read: the text of the error."""

    def __init__(self, photos: Sequence[Photo], masks: bool, flip: float, key: tuple[int, int]) -> None:
        self.photos, self.masks, self.flip, self.key = photos, masks, flip, key

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, row: int) -> tuple[Tensor, Target] | str:
        photo = self.photos[row]
        try:
            image, target = read_image(photo), target_of(photo, self.masks)
        except DataError as error:
            return str(error)
        if self.flip and float(torch.rand((), generator=generator(*self.key, row))) < self.flip:
            return flipped(image, target)
        return image, target


class PhotoLoader(Epochs):
    """Batches of images and targets, in a new order each epoch. The order depends only on the seed and the epoch.

    An image that cannot be read is left out of its batch. If a batch has no readable image, the batch before it is repeated (or
    the first readable batch of the epoch). More than 50 unreadable images in a row are an error.

    Args:
        photos: what to load.
        sampling: the order and the batch size.
        masks: also load masks.
        flip: the probability of mirroring an image.
        workers: processes that decode.
        on_bad: called with the error text of each unreadable image; None raises a DataError instead.
    """

    def __init__(
        self, photos: Sequence[Photo], sampling: Sampling, *, masks: bool, flip: float = 0.0, workers: int = 0,
        on_bad: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(sampling)
        self.photos, self.masks, self.flip = photos, masks, flip
        self.workers, self.on_bad = workers, on_bad

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch.

        Raises:
            DataError: no image can be read, or too many in a row cannot.
        """
        loader = DataLoader(
            _Items(self.photos, self.masks, self.flip, (self.sampling.seed, epoch)),
            self.sampling.batch_size,
            sampler=self.sampling.order(epoch).tolist(),
            num_workers=self.workers,
            drop_last=self.sampling.drop_last,
            generator=generator(self.sampling.seed, epoch),
            collate_fn=list,
        )
        before: Batch | None = None
        held = in_a_row = (
            0  # unreadable batches at the start of the epoch; unreadable photos since the last readable batch
        )
        for items in loader:
            good = [item for item in items if not isinstance(item, str)]
            for error in (item for item in items if isinstance(item, str)):
                if self.on_bad is None:
                    raise DataError(error)
                self.on_bad(error)
            in_a_row = 0 if good else in_a_row + len(items)
            if in_a_row > MOST_IN_A_ROW:
                raise DataError(
                    f"{in_a_row} photos in a row cannot be read; is the disk there? The last one: {items[-1]}"
                )
            if good:
                before = [image for image, _ in good], [target for _, target in good]
            if before is None:
                held += 1
                continue
            for _ in range(1 + held):
                yield before
            held = 0
        if before is None:
            raise DataError(f"none of the {len(self.photos)} photos can be read; the last one: {items[-1]}")


class Feed(pl.LightningDataModule):
    """The training photos, for Lightning. Photos without an object are left out, unless ``config.keep_empty`` is true.

    Args:
        photos: of the train part.
        config: of the run.
        masks: whether the detector learns masks.
        on_bad: called with one line for each image that cannot be read.

    Raises:
        DataError: no photo has an object.
    """

    def __init__(self, photos: Sequence[Photo], config: DetectConfig, masks: bool, on_bad: Any) -> None:
        super().__init__()
        self.photos = [photo for photo in photos if photo.objects or config.keep_empty]
        self.config, self.masks, self.on_bad = config, masks, on_bad
        if not self.photos:
            raise DataError(f"none of the {len(photos)} photos has an object; label some")

    def train_dataloader(self) -> Resumable:
        """The loader of this process, which continues in the middle of an epoch after a resume."""
        config = self.config
        assert self.trainer is not None
        processes = self.trainer.world_size
        sampling = Sampling(
            len(self.photos), per_process(config.batch_size, processes), True, config.seed,
            drop_last=len(self.photos) >= config.batch_size, rank=self.trainer.global_rank, world_size=processes,
        )  # fmt: skip
        loader = PhotoLoader(
            self.photos, sampling, masks=self.masks, flip=config.flip, workers=config.workers, on_bad=self.on_bad
        )
        return Resumable(loader, self.trainer)
