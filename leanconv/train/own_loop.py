"""Train a lean network in your own LightningModule: one callback adds its penalty, checks it and saves it."""

from __future__ import annotations

import os
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from leanconv.conversion.apply import plan_of
from leanconv.conversion.check import check
from leanconv.core.errors import SettingError
from leanconv.core.penalty import penalty
from leanconv.core.wrappers import unwrapped
from leanconv.files.save import save

SPLITTING = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


class LeanCallback(pl.Callback):
    """Trains a lean network within a LightningModule of your own: ``Trainer(callbacks=[LeanCallback("out")])``.

    - When `fit` starts, `leanconv.check` checks that every shared weight is still one tensor.
    - Before each optimiser step, the gradient of `leanconv.penalty` is added to the gradient of your loss, which gives the
      gradient of loss + penalty. This is right with accumulated gradients, several processes, mixed precision and manual
      optimisation. It happens before Lightning clips gradients. The value is logged as "penalty".
    - When `fit` ends, `leanconv.save` writes the network, with averaged weights if `WeightAveraging` has averaged them.

    Args:
        folder: the folder for the saved network; None saves nothing.
        network: the name of the network within the module, such as "net" for ``self.net``, or "" for the module itself. It may
            be left out if one attribute of the module is a lean network, and nothing else in the module has parameters.

    Raises:
        SettingError: when `fit` starts: there is no network or there are several, or the strategy splits shared weights.
        TieError: a weight that the plan shares is no longer shared.

    >>> import leanconv as lc
    >>> import lightning.pytorch as pl
    >>> from leanconv.train import LeanCallback
    >>> class Mine(pl.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         dense = lc.create_model("resnet20")
    ...         self.net = lc.convert(dense, lc.plan(dense, lc.TiedBlock(blocks=2), exclude="conv1"), "fresh")
    >>> LeanCallback().network_of(Mine()).__class__.__name__
    'CifarResNet'
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, network: str | None = None) -> None:
        self.folder, self.network = folder, network

    def network_of(self, module: nn.Module) -> nn.Module:
        """The lean network in `module`.

        Raises:
            SettingError: there is no network, or there are several.
        """
        if self.network is not None:
            try:
                return unwrapped(module.get_submodule(self.network))
            except AttributeError:
                raise SettingError(f"network={self.network!r} is not a part of {type(module).__name__}") from None
        lean = {name: part for name, part in module.named_children() if plan_of(part) is not None}
        inside = {parameter for part in lean.values() for parameter in part.parameters()}
        outside = next((name for name, parameter in module.named_parameters() if parameter not in inside), None)
        if len(lean) == 1 and outside is None:
            return unwrapped(next(iter(lean.values())))
        others = f", beside {outside}" if lean and outside else ""
        said = f"{len(lean)} lean networks ({', '.join(lean)}){others}" if lean else "no lean network"
        raise SettingError(f"{type(module).__name__} holds {said}; name the one to train: LeanCallback(network=...)")

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if isinstance(trainer.strategy, SPLITTING):
            kind = type(trainer.strategy).__name__
            raise SettingError(f"{kind} splits weights that layers share; use DDP, where each process has all of them")
        check(self.network_of(module))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer | Any
    ) -> None:
        weights = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        value = add_penalty_gradient(self.network_of(module), weights)
        module.log("penalty", value)

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.folder is not None and trainer.is_global_zero:
            save(self.network_of(module), self.folder)


def add_penalty_gradient(network: nn.Module, weights: list[nn.Parameter]) -> Tensor:
    """Add d penalty(network) / d weight to the gradient of each of `weights`; returns the value of the penalty.

    Args:
        network: the lean network.
        weights: the parameters whose gradients are changed.

    >>> add_penalty_gradient(nn.Linear(2, 2), []).item()
    0.0
    """
    with torch.enable_grad():
        value = penalty(network)
        if value.requires_grad:
            gradients = torch.autograd.grad(value, weights, allow_unused=True)
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    weight.grad = gradient if weight.grad is None else weight.grad + gradient
    return value.detach()
