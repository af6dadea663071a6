"""A callback that reports each epoch of a run as an event."""

from __future__ import annotations

import lightning.pytorch as pl

from leanconv.experiment.events import EpochEnded, Tell
from leanconv.train.base import RunModule


class Epochs(pl.Callback):
    """Reports `EpochEnded` for each record of an epoch, at any place in the list of callbacks."""

    def __init__(self, label: str, seed: int, tell: Tell) -> None:
        self.label, self.seed, self.tell = label, seed, tell
        self.told = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, RunModule)
        self.told = len(module.history)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._catch_up(module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._catch_up(module)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._catch_up(module)

    def _catch_up(self, module: pl.LightningModule) -> None:
        assert isinstance(module, RunModule)
        for record in module.history[self.told :]:
            self.tell(EpochEnded(self.label, self.seed, record["epoch"], module.config.epochs, record))
        self.told = len(module.history)
