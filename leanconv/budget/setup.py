"""Everything that decides a search: the network, the images, the budget and the settings."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.budget.config import EXECUTION, LeanConfig
from leanconv.budget.limits import Budget
from leanconv.budget.parts import Metric, Recovery
from leanconv.budget.space import Space, candidates_of
from leanconv.budget.times import Cache
from leanconv.conversion.apply import plan_of
from leanconv.conversion.methods import label_of
from leanconv.conversion.plan import Include
from leanconv.core.copying import copied
from leanconv.core.count import count_macs
from leanconv.core.errors import SettingError
from leanconv.core.layout import to_channels_last
from leanconv.core.meta import InputSize
from leanconv.core.method import Method
from leanconv.core.notes import get_task
from leanconv.core.task import Task
from leanconv.data import ImageData, LabelledImages, describe
from leanconv.experiment.settings import read_config, settings_for
from leanconv.files.target import Network, is_saved, network_digest, network_name, open_target
from leanconv.train.config import TrainConfig
from leanconv.train.prepared import check_fits, scores_of, side_of, some_batches, task_on

MACS = 128e9  # of a forward pass on all calibration images, if their number is not given
IMAGES = (16, 256)  # the least and the most calibration images, if their number is not given
CONVERTED = 8  # a sequential fit of fast_vgg on 256 images lost more than one that is not sequential; on 2,048, less
SHARE = 0.1  # of the recipe's epochs, for the recovery
LR_SHARE = 0.5  # of its learning rate: better than 0.2 and 0.05 on the validation part of CIFAR-10, for a lean fast_vgg
Control = Callable[["Setup"], nn.Module]


@dataclass(frozen=True)
class Setup:
    """The input of a search, prepared.

    Args:
        name: the name of the network, for messages.
        teacher: the dense network in eval mode, in channels_last; a copy of the user's.
        data: the images, with the classes in the order of the network's outputs.
        train, validation: the two parts of the train part; the recovery makes the same parts.
        task: how images become inputs.
        budget, config: the limits and the settings.
        recipe: the settings of the recovery; None for no recovery.
        scratch: the settings of the training of a narrower network from scratch.
        effort: what the number of epochs of `scratch` is.
        methods, where, exclude, include: the candidates, as in `candidates_of`.
        metric: scores a network in place of the validation accuracy.
        controls: what the result is compared with: built-in controls, or functions that return a network, by name.
        recover: trains a network after its conversion.
        cache: the file of measured times.
        start: the network whose layers the candidates replace: the teacher, or the teacher with fewer channels.
    """

    name: str
    teacher: nn.Module
    data: ImageData
    train: LabelledImages
    validation: LabelledImages
    task: Task
    budget: Budget
    config: LeanConfig
    recipe: TrainConfig | None
    scratch: TrainConfig
    effort: str
    methods: tuple[str | Method, ...]
    where: tuple[str, ...]
    exclude: tuple[str, ...]
    include: Include | None
    metric: Metric | None
    controls: dict[str, Control | None]
    recover: Recovery
    cache: Cache
    start: nn.Module

    def from_(self, start: nn.Module) -> Setup:
        """The same search from another network, on the same images."""
        found = replace(self, start=start)
        found.__dict__.update({name: getattr(self, name) for name in ("images", "batches")})  # they are read once
        return found

    @property
    def input_size(self) -> InputSize:
        """(channels, height, width) of an image as the network takes it."""
        return (self.task.channels, *self.task.image_size)

    @property
    def timed(self) -> bool:
        """Whether the layers are timed: time is limited or made small."""
        small = self.budget.max_drop is not None and self.config.minimise == "time"
        return small or any(limit.measure == "time" for limit in self.budget.limits)

    @property
    def example(self) -> Tensor:
        """Images of the size and the number of a call, for measuring."""
        return torch.randn(self.config.batch, *self.input_size, generator=torch.Generator().manual_seed(0))

    @cached_property
    def images(self) -> Tensor:
        """The calibration images of fits and scores, from the train part without the validation part: (N, C, H, W)."""
        return self._images(1)

    @cached_property
    def batches(self) -> list[Tensor]:
        """`CONVERTED` times as many images in batches, for the fit of the chosen network and the statistics of its norms."""
        return list(self._images(CONVERTED).split(64))

    def _images(self, times: int) -> Tensor:
        asked = self.config.images
        if asked is None:
            asked = int(min(max(MACS // count_macs(self.teacher, self.input_size), IMAGES[0]), IMAGES[1]))
        (found,) = some_batches(self.train, self.data, self.task, times * asked, seed=self.config.seed)
        parameter = next(self.teacher.parameters())
        return found.to(parameter.device, parameter.dtype).contiguous(memory_format=torch.channels_last)

    @cached_property
    def space(self) -> Space:
        """All candidates."""
        return candidates_of(
            self.start, self.input_size, methods=self.methods, align=self.config.align, where=self.where or "*",
            exclude=self.exclude, include=self.include or (), required=self.start is self.teacher,
        )  # fmt: skip

    @torch.no_grad()
    def quality(self, network: nn.Module) -> float:
        """The accuracy on the validation part in percent, or the value of the user's metric."""
        network = network.eval()
        if self.metric is not None:
            return float(self.metric(network))
        return scores_of(network, self.data, self.task, self.validation).top1_pct

    @torch.no_grad()
    def test(self, network: nn.Module) -> float:
        """The accuracy on the test part in percent."""
        return scores_of(network.eval(), self.data, self.task).top1_pct

    def identity(self) -> dict[str, Any]:
        """The search as JSON values: two searches with equal identities are the same search."""
        config = {name: value for name, value in self.config.to_json().items() if name not in EXECUTION}
        facts = describe(self.data)
        recipe = None if self.recipe is None else self.recipe.to_json()
        return {
            "target": self.name,
            "network": network_digest(self.teacher),
            "weights": weights_digest(self.teacher),
            "data": facts | {"classes": len(facts["classes"])},
            "budget": asdict(self.budget) | {"limits": [asdict(limit) for limit in self.budget.limits]},
            "config": config,
            "recipe": recipe,
            "methods": [method if isinstance(method, str) else label_of(method) for method in self.methods],
            "where": list(self.where),
            "exclude": list(self.exclude),
            "include": self.include,
            "controls": list(self.controls),
        }


def weights_digest(model: nn.Module) -> str:
    """CRC-32 of all entries of the state dict."""
    value = 0
    for name, tensor in model.state_dict().items():
        held = tensor.detach().cpu().contiguous(memory_format=torch.contiguous_format).flatten()
        value = zlib.crc32(
            held.view(torch.uint8).numpy().tobytes() if held.numel() else b"", zlib.crc32(name.encode(), value)
        )
    return f"{value:08x}"


def teacher_of(model: Network, data: ImageData, pretrained: bool) -> nn.Module:
    """The dense network of a target, a copy in eval mode and in channels_last.

    Raises:
        SettingError: the network is lean already, or is a single layer.
    """
    if isinstance(model, nn.Module):
        found = copied(model)
    elif isinstance(model, str):
        found = open_target(model, pretrained=pretrained, num_classes=len(data.classes), in_chans=data.channels)
    else:
        found = model()
    if plan_of(found) is not None:
        raise SettingError(f"{network_name(model)} is lean already; give the trained dense network")
    if isinstance(found, nn.Conv2d | nn.Linear):
        raise SettingError("the network is a single layer; wrap it: nn.Sequential(layer)")
    return to_channels_last(found).eval()


def own_run(model: Network) -> Path | None:
    """The settings of the run that trained a network, if the target is the folder of a run."""
    path = Path(model).expanduser() / "config.yaml" if isinstance(model, str) and is_saved(model) else None
    return path if path is not None and path.exists() else None


def _title(model: Network) -> str:
    """The name of a network in the result; of a folder, the last part of its path, which is the same on every machine."""
    folder = isinstance(model, str) and is_saved(model)
    return Path(str(model)).expanduser().resolve().name if folder else network_name(model)


def recipe_of(
    model: Network, data: ImageData, config: TrainConfig | str | Path | None, settings: LeanConfig
) -> tuple[TrainConfig, TrainConfig | None]:
    """The settings that split the train part, and the settings of the recovery; None for no recovery.

    The recovery takes the settings of the network's own run, if it is the folder of a run, for fewer epochs.

    Args:
        model: the target.
        data: the images.
        config: settings, the name of a recipe or a file; None takes those of the run, or else those that suit the data.
        settings: how many epochs, the validation part and the seed.
    """
    own = own_run(model)
    given: dict[str, Any] = {}
    if config is None and own is not None:
        given = read_config(own)[0]
    base = settings_for(config, data, given)
    if not base.validation:
        base = base.replace(validation=settings.validation)
    if not given:  # a network's own run has fixed which images are its validation part
        base = base.replace(seed=settings.seed)
    epochs = max(1, round(base.epochs * SHARE)) if settings.recovery_epochs is None else settings.recovery_epochs
    if epochs == 0:
        return base, None
    shorter = base.scaled(epochs / base.epochs) if epochs <= base.epochs else base.replace(epochs=epochs)
    return base, shorter.replace(lr=base.lr * LR_SHARE, select="last", record_gradients=False)


def prepared(
    model: Network, data: ImageData, budget: Budget, config: LeanConfig, recipe: TrainConfig | str | Path | None,
    *, pretrained: bool, methods: Sequence[str | Method], controls: dict[str, Control | None], **more: Any,
) -> Setup:  # fmt: skip
    """The setup of a search.

    Raises:
        SettingError: the network does not fit the images, or is lean already.
    """
    teacher = teacher_of(model, data, pretrained)
    noted = get_task(teacher)
    if noted is not None:
        data = data.for_classes(noted.classes)
    task = task_on(teacher, data)
    check_fits(teacher, data, task.image_size)
    splits, recovery = recipe_of(model, data, recipe, config)
    side = None if data.prepared else side_of(data, task)
    if side is not None and splits.image_size is None:  # the network takes another size than that of the data
        splits, recovery = splits.replace(image_size=side), recovery and recovery.replace(image_size=side)
    total = splits.epochs + (recovery.epochs if recovery else 0)
    scratch = splits.scaled(1).replace(epochs=total, record_gradients=False)  # milestones become parts
    effort = "those of the dense network's run and of the recovery"
    if own_run(model) is None:
        effort = "those of the recipe and of the recovery, because the dense network's own are unknown"
    train, validation = data.split(splits.validation, splits.seed)
    return Setup(
        _title(model), teacher, data, train, validation, task, budget, config, recovery, scratch, effort, tuple(methods),
        controls=controls, start=teacher, **more,
    )  # fmt: skip
