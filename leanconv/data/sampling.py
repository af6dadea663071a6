"""Which images make up an epoch, in which order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leanconv.core.errors import SettingError
from leanconv.data.seeds import generator


@dataclass(frozen=True)
class Sampling:
    """The order of an epoch, from the seed and the epoch's number alone.

    Of several processes, each takes every `world_size`-th image. Training repeats a few images so that all have equally
    many batches; evaluation shows each image once.

    Raises:
        SettingError: a number out of its range, or no batch at all.
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
        """The rows this process visits in this epoch."""
        steps = torch.arange(self.rank, self._total(), self.world_size)
        if not self.shuffle:
            return steps
        return torch.randperm(self.count, generator=generator(self.seed, epoch))[steps % self.count]

    def batches(self) -> int:
        """How many batches that makes."""
        rows = len(range(self.rank, self._total(), self.world_size))
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def _total(self) -> int:
        return -(-self.count // self.world_size) * self.world_size if self.shuffle else self.count
