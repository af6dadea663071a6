"""Batches of a run: which images, in which order, from which step on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from leanconv.core.errors import SettingError
from leanconv.data import ImageData, LabelledImages, Loader, make_loader
from leanconv.data.loader import Epochs
from leanconv.data.transforms import Crop, extra_transforms, normalise
from leanconv.train.config import TrainConfig
from leanconv.train.prepared import parts_of

VALIDATION_BATCH = 500


def per_process(batch_size: int, processes: int) -> int:
    """The number of images that each process takes in a step.

    Raises:
        SettingError: `batch_size` is not a multiple of `processes`.

    >>> per_process(128, 4)
    32
    """
    if batch_size % processes:
        raise SettingError(f"batch_size={batch_size} must be a multiple of the {processes} processes")
    return batch_size // processes


class Resumable:
    """A loader that continues with the batch after the last step, also within an epoch.

    It reads the trainer's count of steps, which is in the checkpoint. Lightning restores a loader's own state only within an
    epoch.

    Args:
        loader: the loader of one epoch.
        trainer: counts the steps.
    """

    def __init__(self, loader: Epochs, trainer: pl.Trainer) -> None:
        self.loader, self.trainer = loader, trainer

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        epoch, done = divmod(self.trainer.global_step, len(self))
        self.loader.set_epoch(epoch, done)
        yield from self.loader


class Feed(pl.LightningDataModule):
    """The train part of `data` without the images that `config` holds out for validation; never the test part.

    Batches move to the device as uint8, and are normalised there.

    Args:
        data: the data set.
        config: the settings of the run.
    """

    def __init__(self, data: ImageData, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.mean, self.std = data.mean, data.std
        self.train, self.validation = parts_of(data, config)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, labels = batch
        return normalise(images, self.mean, self.std, self.config.channels_last), labels

    def train_dataloader(self) -> Resumable:
        trainer, batch_size = self._trainer(), self.config.batch_size
        # A small last batch would give noisy batch statistics, and a single image would give none
        drop_last = len(self.train) >= batch_size
        config = self.config
        extra = extra_transforms(
            config.auto_augment, config.randaugment_ops, config.randaugment_magnitude, config.erase, self.mean
        )
        loader = self._loader(
            self.train, batch_size=per_process(batch_size, trainer.world_size), train=True, augment=config.augment,
            crop=self._crop(), extra=extra, seed=config.seed, drop_last=drop_last,
        )  # fmt: skip
        return Resumable(loader, trainer)

    def val_dataloader(self) -> Loader | list[Any]:
        if self.validation is None:
            return []
        return self._loader(self.validation, batch_size=VALIDATION_BATCH, train=False)

    def first_images(self, count: int = 5000) -> Tensor:
        """The first `count` train images as the network gets them, not augmented: float32 (N, C, H, W)."""
        rows = torch.arange(min(count, len(self.train)))
        loader = make_loader(
            self.train.subset(rows), mean=self.mean, std=self.std, image_size=self.config.image_size, batch_size=len(rows),
            train=False, workers=self.config.workers,
        )  # fmt: skip
        return next(iter(loader))[0]

    def _crop(self) -> Crop:
        return Crop(self.config.crop_pad, self.config.crop_pad_mode, self.config.flip)

    def _loader(self, images: LabelledImages, **options: Any) -> Loader:
        config, trainer = self.config, self._trainer()
        return make_loader(
            images, mean=self.mean, std=self.std, image_size=config.image_size, workers=config.workers,
            channels_last=config.channels_last, rank=trainer.global_rank, world_size=trainer.world_size, raw=True, **options,
        )  # fmt: skip

    def _trainer(self) -> pl.Trainer:
        assert self.trainer is not None
        return self.trainer
