"""The learning rate as a function of the step.

A function has no state that must be stored, so a resumed run follows the same curve. A scheduler object has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from leanconv.train.config import RunConfig


def learning_rate(config: RunConfig, step: int, steps_per_epoch: int, val_losses: Sequence[float] = ()) -> float:
    """The learning rate of optimiser step `step` (from 0).

    - "constant": lr.
    - "cosine": from lr to 0 on half a cosine, after the warm-up.
    - "onecycle": up from lr / div_factor to lr, then down to lr / div_factor / final_div_factor, on two half cosines (torch's
      OneCycleLR).
    - "triangle": the same on two straight lines (OneCycleLR with anneal_strategy="linear").
    - "step": multiplied by gamma at each milestone.
    - "plateau": multiplied by gamma if the validation loss has not fallen for more than `patience` epochs (torch's
      ReduceLROnPlateau).

    In the warm-up of n steps, the learning rate is lr (step + 1) / n.

    Args:
        config: the settings of the run.
        step: the optimiser step, from 0.
        steps_per_epoch: optimiser steps in an epoch.
        val_losses: validation loss of each epoch so far; only "plateau" reads it.

    >>> config = RunConfig(epochs=4, lr=0.1, schedule="step", milestones=(2,))
    >>> [round(learning_rate(config, step, steps_per_epoch=1), 3) for step in range(4)]
    [0.1, 0.1, 0.01, 0.01]
    """
    total = config.epochs * steps_per_epoch
    warm = round(config.warmup_epochs * steps_per_epoch)
    if step < warm:
        return config.lr * (step + 1) / warm
    if config.schedule == "cosine":
        return config.lr * _half_cosine((step - warm) / (total - warm))
    if config.schedule == "onecycle":
        return _one_cycle(config, step, total, _half_cosine)
    if config.schedule == "triangle":
        return _one_cycle(config, step, total, _line)
    if config.schedule == "step":
        passed = sum(step >= epoch * steps_per_epoch for epoch in config.milestone_epochs())
        return config.lr * config.gamma**passed
    if config.schedule == "plateau":
        return _plateau(config, val_losses)
    return config.lr


def _half_cosine(part: float) -> float:
    """Half a cosine: 1 at part = 0, 0 at part = 1."""
    return (1 + math.cos(math.pi * part)) / 2


def _line(part: float) -> float:
    """A straight line: 1 at part = 0, 0 at part = 1."""
    return 1 - part


def _one_cycle(config: RunConfig, step: int, total: int, anneal: Callable[[float], float]) -> float:
    first = config.lr / config.div_factor
    last = first / config.final_div_factor
    peak = config.pct_start * total - 1  # torch counts the steps from 0 to total - 1
    if step < peak:
        return config.lr + (first - config.lr) * anneal(step / peak)
    return last + (config.lr - last) * anneal((step - peak) / max(total - 1 - peak, 1))


def _plateau(config: RunConfig, val_losses: Sequence[float]) -> float:
    import torch
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    optimizer = torch.optim.SGD([torch.zeros(())], lr=config.lr)
    scheduler = ReduceLROnPlateau(optimizer, factor=config.gamma, patience=config.patience)
    for loss in val_losses:  # replayed, so that only the history must be kept
        scheduler.step(loss)
    return float(optimizer.param_groups[0]["lr"])
