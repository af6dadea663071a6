"""The steps that later parts of leanconv replace: fits, normalisation statistics, and recovery. Each is one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from leanconv.budget.space import Candidate
from leanconv.conversion.apply import build, convert
from leanconv.conversion.plan import Plan
from leanconv.core.modes import evaluating
from leanconv.data import ImageData
from leanconv.train.config import TrainConfig
from leanconv.train.run import fit


class Recovery(Protocol):
    """A function that trains a lean network after its conversion."""

    def __call__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        data: ImageData,
        config: TrainConfig,
        folder: Path,
        *,
        progress: bool,
    ) -> None:
        """Train `student` in place. A run in `folder` that was stopped continues.

        Args:
            student: the lean network.
            teacher: the dense network.
            data: the images; the test part must not be read.
            config: the settings of the training.
            folder: the folder of the run.
            progress: show a progress bar.
        """
        ...


def fitted(candidate: Candidate, model: nn.Module) -> list[nn.Module]:
    """The lean modules of a candidate, in eval mode, fitted to the dense layers of `model`."""
    assert candidate.group is not None
    convs: list[Any] = [model.get_submodule(site.name) for site in candidate.sites]
    return [module.eval().requires_grad_(False) for module in build(candidate.group, convs, "fit")]


def converted(model: nn.Module, plan: Plan, batches: Sequence[Tensor]) -> nn.Module:
    """A lean copy of `model`, fitted, with its normalisation statistics estimated again on `batches`."""
    return reestimated(convert(model, plan, init="fit"), batches)


@torch.no_grad()
def reestimated(model: nn.Module, batches: Sequence[Tensor]) -> nn.Module:
    """`model` with the statistics of every batch norm set to the mean over `batches`."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
            norm.train()
        for batch in batches:
            model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def fine_tune(
    student: nn.Module, teacher: nn.Module, data: ImageData, config: TrainConfig, folder: Path, *, progress: bool
) -> None:
    """Train `student` on the labels with the settings of `config`; the teacher is not used."""
    fit(student, data, config, folder, resume=True, progress=progress)


Metric = Callable[[nn.Module], float]  # of a network in eval mode; a higher value is better
