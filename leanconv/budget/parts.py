"""How a search fits candidates, converts a network, and recovers its accuracy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from leanconv.budget.space import Candidate
from leanconv.conversion import apply
from leanconv.conversion.channel_plan import ChannelPlan, apply_channels_
from leanconv.conversion.plan import Plan
from leanconv.conversion.targets import Target
from leanconv.core.copying import copied
from leanconv.core.count import count_macs
from leanconv.core.errors import LeanconvWarning
from leanconv.core.modes import in_eval
from leanconv.core.moments import Moments
from leanconv.data import ImageData
from leanconv.search.reconstruction import repaired
from leanconv.train.config import TrainConfig
from leanconv.train.run import fit

SEQUENTIAL = 1e13  # MACs of all forward passes of a sequential fit: about a minute on two cores
LEAST = 32  # images of a fit of dense layers


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
    ) -> object:
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


def fitted(candidate: Candidate, model: nn.Module, stats: Sequence[Moments]) -> list[nn.Module]:
    """The lean modules of a candidate, in eval mode, fitted to the outputs of the dense layers of `model`.

    Args:
        candidate: a lean candidate.
        model: the dense network.
        stats: the moments of the input of each of the candidate's layers.
    """
    assert candidate.group is not None
    convs: list[Any] = [model.get_submodule(site.name) for site in candidate.sites]
    target = None if candidate.group.method.ignores_inputs() else Target(convs, stats)
    return [in_eval(module).requires_grad_(False) for module in apply.build(candidate.group, convs, "fit", target)]


def converted(model: nn.Module, plan: Plan, batches: Sequence[Tensor] | None, removed: Sequence[str] = ()) -> nn.Module:
    """A lean copy of `model`, fitted to outputs on `batches`, on which its batch norms are estimated again.

    The fit is sequential (see `leanconv.convert`) if its forward passes, three of the whole network for each group, have at
    most `SEQUENTIAL` MACs.

    Args:
        model: the network.
        plan: of its layers.
        batches: images; None gives the lean layers new weights, for a network whose time is measured.
        removed: the residual blocks that are removed first, see `without`.
    """
    base = without(model, removed, batches or ()) if removed else model
    # A method that ignores inputs is fitted to the weights, as for its score. A search without training may run within
    # torch.inference_mode; its networks can be trained later all the same.
    with warnings.catch_warnings(), torch.inference_mode(False):
        warnings.simplefilter("ignore", LeanconvWarning)
        if batches is None:
            return apply.convert(base, plan)
        sequential = affordable(base, len(plan.groups), batches)
        return apply.fitted(base, plan, "fit", batches, sequential=sequential, teacher=model)


def without(model: nn.Module, blocks: Sequence[str], batches: Sequence[Tensor], most: float = SEQUENTIAL) -> nn.Module:
    """A copy of `model` without some residual blocks, whose layers behind them are fitted to their old outputs.

    The fit is sequential, on as many images as its forward passes have at most `most` MACs. With fewer than `LEAST` images
    there is no fit, because it would fit their noise.

    Args:
        model: the network.
        blocks: the names of the blocks.
        batches: images; none for a network without a fit.
        most: MACs of all forward passes.
    """
    plan, taken = ChannelPlan(removed=tuple(blocks)), []
    if batches:
        layers = sum(isinstance(part, nn.Conv2d | nn.Linear) for part in model.modules())
        channels, height, width = batches[0].shape[1:]
        left = int(most / (2 * layers * count_macs(model, (channels, height, width))))
        for batch in batches if left >= LEAST else ():
            taken += [batch[:left]] if left > 0 else []
            left -= len(batch)
    if sum(map(len, taken)) < LEAST:
        return apply_channels_(copied(model), plan)
    return repaired(model, plan, taken, sequential=True)


def affordable(model: nn.Module, layers: int, batches: Sequence[Tensor]) -> bool:
    """Whether three forward passes of `model` on all images for each of some layers have at most `SEQUENTIAL` MACs.

    They give the dense outputs, the inputs behind the layers before, and the statistics of norms.
    """
    passes = 3 * layers * sum(len(batch) for batch in batches)
    channels, height, width = batches[0].shape[1:]
    return passes * count_macs(model, (channels, height, width)) <= SEQUENTIAL


def distil(
    student: nn.Module, teacher: nn.Module, data: ImageData, config: TrainConfig, folder: Path, *, progress: bool
) -> None:
    """Train `student` by distillation from `teacher`, with the settings of `config`; see `leanconv.train.distill`."""
    fit(student, data, config, folder, resume=True, progress=progress, teacher=teacher)


Metric = Callable[[nn.Module], float]  # of a network in eval mode; a higher value is better
