"""Which images an epoch uses, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leanconv.core.errors import SettingError
from leanconv.data.seeds import generator


@dataclass(frozen=True)
class Sampling:
    """The order of the images in an epoch. It depends only on the seed and the epoch.

    Process `rank` takes every `world_size`-th image, so that the batches of all processes together hold the same images for
    any number of processes. Training without `drop_last` repeats a few images, so that all processes have the same number of
    batches. Evaluation uses each image once.

    >>> Sampling(5, 2, shuffle=False).order(0)
    tensor([0, 1, 2, 3, 4])
    >>> Sampling(5, 2, shuffle=False).batches()
    3

    Args:
        count: images in the data set.
        batch_size: images in a batch of one process.
        shuffle: draw a new order for each epoch.
        seed: of the order.
        drop_last: leave out a last batch that is not full.
        rank, world_size: the index of this process, and the number of processes.

    Raises:
        SettingError: a number is out of its range, or there is no batch at all.
    """

    count: int
    batch_size: int
    shuffle: bool
    seed: int = 0
    drop_last: bool = False
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SettingError(f"batch_size={self.batch_size} must be at least 1")
        if not 0 <= self.rank < self.world_size:
            raise SettingError(f"rank={self.rank} must lie in 0..{self.world_size - 1} (world_size={self.world_size})")
        if not self.batches():
            share = f"{self.count} images (world_size={self.world_size})"
            raise SettingError(f"batch_size={self.batch_size} leaves no batch of {share}; lower it")

    def order(self, epoch: int) -> Tensor:
        """The row numbers (int64) that this process uses in this epoch."""
        steps = torch.arange(self.rank, self._total(), self.world_size)
        if not self.shuffle:
            return steps
        return torch.randperm(self.count, generator=generator(self.seed, epoch))[steps % self.count]

    def batches(self) -> int:
        """The number of batches in an epoch of this process."""
        rows = len(range(self.rank, self._total(), self.world_size))
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def _total(self) -> int:
        if not self.shuffle:
            return self.count
        if self.drop_last:  # so that any number of processes takes the same steps
            return self.count // self.world_size * self.world_size
        return -(-self.count // self.world_size) * self.world_size
