"""The search for a lean classifier: scored by its accuracy, trained by distillation, saved and exported as a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.budget.config import LeanConfig
from leanconv.budget.limits import Budget
from leanconv.budget.ordinary import NARROWER
from leanconv.budget.parts import Recovery, distil
from leanconv.budget.setup import Control, Scored, Setup, recovery_of
from leanconv.conversion.apply import plan_of
from leanconv.core.copying import copied, refuse_meta
from leanconv.core.errors import SettingError
from leanconv.core.layout import best_layout, to_layout
from leanconv.core.meta import InputSize
from leanconv.core.method import Method
from leanconv.core.modes import in_eval
from leanconv.core.notes import get_task, set_task
from leanconv.core.task import Task
from leanconv.core.task_settings import TaskSettings
from leanconv.core.wrappers import unwrapped
from leanconv.data import ImageData, LabelledImages, describe
from leanconv.deploy.export import export
from leanconv.deploy.formats import FORMATS
from leanconv.deploy.opened import Called
from leanconv.experiment.settings import settings_for
from leanconv.files.load import load
from leanconv.files.save import save
from leanconv.files.target import Network, built, is_saved, network_name
from leanconv.files.weights import open_with_weights
from leanconv.models.task import task_from
from leanconv.train.config import TrainConfig
from leanconv.train.once import SCRATCH, SIZE, SPLIT
from leanconv.train.prepared import check_fits, check_trains, scores_of, size_for, some_batches, task_on


@dataclass(frozen=True)
class ClassifierSetup(Setup):
    """The search for a lean classifier.

    Args:
        data: the images, with the classes in the order of the network's outputs.
        train, validation: the two parts of the train part; the recovery makes the same parts.
        task: how images become inputs.
        recipe: the settings of the recovery; None for no recovery.
        scratch: the settings of the training of a narrower network from scratch.
        reason: what the number of epochs of `scratch` is.
        recover: trains a network after its conversion.
    """

    data: ImageData
    train: LabelledImages
    validation: LabelledImages
    task: Task
    recipe: TrainConfig | None
    scratch: TrainConfig
    reason: str
    recover: Recovery

    @property
    def input_size(self) -> InputSize:
        return (self.task.channels, *self.task.image_size)

    @property
    def classes(self) -> int:
        """The number of classes of the data."""
        return len(self.data.classes)

    @property
    def as_trained(self) -> ImageData:
        """The images, normalised as in the dense network's training."""
        return self.data if self.data.prepared else replace(self.data, mean=self.task.mean, std=self.task.std)

    def whole(self, part: nn.Module) -> nn.Module:
        if not self.data.prepared:
            set_task(part, self.task)
        return part

    def calibration(self, count: int) -> Tensor:
        (found,) = some_batches(self.train, self.data, self.task, count, seed=self.config.seed)
        return found

    def usual(self, network: nn.Module) -> Scored:
        """The accuracy on the validation part in percent."""
        return Scored(scores_of(network, self.data, self.task, self.validation).top1_pct)

    def train_(self, network: nn.Module, folder: Path, *, scratch: bool, progress: bool) -> int:
        recipe = self.scratch if scratch else self.recipe
        if recipe is None:
            return 0
        recipe = recipe.replace(threads=self.config.train_threads)  # the dense network may have had others
        self.recover(network, self.teacher, self.as_trained, recipe, folder, progress=progress)
        return recipe.epochs

    @property
    def trains(self) -> bool:
        return self.recipe is not None or (NARROWER, None) in self.controls.items()

    @property
    def effort(self) -> str:
        return f"{self.scratch.epochs} epochs: {self.reason}"

    @torch.no_grad()
    def finals(
        self, networks: Mapping[str, nn.Module], more: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """The accuracy on the test part in percent, which is read once for each network; None with a metric."""
        return {name: {"test_top1_pct": self._test(network)} for name, network in networks.items()}

    def _test(self, network: nn.Module) -> float | None:
        return scores_of(in_eval(network), self.data, self.task).top1_pct if self.metric is None else None

    def save(self, network: nn.Module, folder: Path) -> None:
        save(network, folder)

    def load(self, folder: Path) -> nn.Module:
        return load(folder, copied(self.teacher))

    def exported(self, network: nn.Module, folder: Path, to: str) -> dict[str, Any]:
        """The file is scored with its own metadata on the validation part."""
        network = self.whole(copied(network))
        made = export(network, folder / f"model{FORMATS[to].files[0]}", to=to, form="fast", example=self.example)
        run = Called(FORMATS[to].run(made.path, network))
        scored = scores_of(run, self.data, self.task, self.validation).top1_pct if self.metric is None else None
        return made.to_json() | {"val_top1_pct": scored}

    @property
    def functions(self) -> dict[str, object]:
        return super().functions | {"recover": None if self.recover is distil else self.recover}

    def identity(self) -> dict[str, Any]:
        facts = describe(self.data)
        recipe = None if self.recipe is None else self.recipe.to_json()
        found = super().identity() | {"data": facts | {"classes": len(facts["classes"])}, "recipe": recipe}
        found |= {SPLIT: {"validation": self.scratch.validation, "seed": self.scratch.seed}}
        found |= {SIZE: [*self.task.image_size]}
        if (NARROWER, None) in self.controls.items():
            found |= {SCRATCH: self.scratch.identity()}
        told = [[*self.as_trained.mean], [*self.as_trained.std]]
        return found | ({} if told == [[*self.data.mean], [*self.data.std]] else {"normalised": told})


def teacher_of(
    model: Network, data: ImageData, pretrained: bool, weights: str | Path | None, state: str | None, task: TaskSettings
) -> nn.Module:
    """The dense network of a target, a copy in eval mode, with the task that the user tells.

    Raises:
        SettingError: the network is lean already, or is a single layer; a checkpoint comes without the preparation of its
            images, or with a module.
        FileError: the checkpoint does not fit the network.
    """
    if isinstance(model, str):
        classes = len(data.classes) if weights is None else None  # a trained network keeps the classes that it has
        found = open_with_weights(
            model, weights, state=state, pretrained=pretrained, num_classes=classes, in_chans=data.channels
        )
    elif weights is not None:
        raise SettingError("weights= is for networks by name; fill this one with lc.load_checkpoint(model, path)")
    else:
        found = built(model)
    refuse_meta(found)
    if weights is not None or task.given:
        set_task(found, task_from(found, task))
    if plan_of(found) is not None:
        raise SettingError(f"{network_name(model)} is lean already; give the trained dense network")
    if isinstance(found, nn.Conv2d | nn.Linear):
        raise SettingError("the network is a single layer; wrap it: nn.Sequential(layer)")
    return in_eval(found)


def own_run(model: Network) -> Path | None:
    """The settings of the run that trained a network, if the target is the folder of a run."""
    path = Path(model).expanduser() / "config.yaml" if isinstance(model, str) and is_saved(model) else None
    return path if path is not None and path.exists() else None


def title_of(model: Network) -> str:
    """The name of a network in the result; of a folder, the last part of its path, which is the same on every machine."""
    folder = isinstance(model, str) and is_saved(model)
    if folder:
        return Path(str(model)).expanduser().resolve().name
    return network_name(unwrapped(model) if isinstance(model, nn.Module) else model)


def recipe_of(
    model: Network, data: ImageData, config: TrainConfig | str | Path | None, settings: LeanConfig
) -> tuple[TrainConfig, TrainConfig | None]:
    """The settings that split the train part, and the settings of the recovery; None for no recovery.

    The recovery takes the settings of the network's own run, if it is the folder of a run, for fewer epochs. With any settings,
    the validation part is the one of that run: the network was trained on all other images.

    Args:
        model: the target.
        data: the images.
        config: settings, the name of a recipe or a file; None takes those of the run, or else those that suit the data.
        settings: how many epochs, the validation part and the seed.
    """
    own = own_run(model)
    base = settings_for(own if config is None else config, data, {})
    split = base.replace(seed=settings.seed) if own is None else settings_for(own, data, {})
    base = base.replace(seed=split.seed, validation=split.validation or settings.validation)
    recovery = recovery_of(base, settings.recovery_epochs)
    return base, recovery and recovery.replace(select="last")


def _side(size: tuple[int, int]) -> int:
    """The side of a square.

    Raises:
        SettingError: it is none, to which training cannot resize.
    """
    if size[0] != size[1]:
        raise SettingError(
            f"the network takes images of {size[0]}x{size[1]} pixels, and training resizes to squares only; give images of this "
            "size, or recovery_epochs=0 for no training"
        )
    return size[0]


def prepared(
    teacher: nn.Module, data: ImageData, budget: Budget, config: LeanConfig, recipe: TrainConfig | str | Path | None,
    *, target: Network, methods: Sequence[str | Method], controls: dict[str, Control | None], **more: Any,
) -> ClassifierSetup:  # fmt: skip
    """The setup of a search for the network `teacher`, which `teacher_of` made from `target`.

    Raises:
        SettingError: the network does not fit the images.
    """
    noted = get_task(teacher)
    if noted is not None:
        data = data.for_classes(noted.classes)
    task = task_on(teacher, data)
    splits, recovery = recipe_of(target, data, recipe, config)
    # distil and the usual score read outputs as classes
    untrained = recovery is None and NARROWER not in controls
    distilled = not untrained and more.get("recover") is distil
    check_fits(teacher, data, task.image_size, classes=distilled or more.get("metric") is None)
    if distilled:
        check_trains(teacher, (data.channels, *task.image_size))
    to_layout(teacher, best_layout(teacher, (data.channels, *task.image_size)))
    size = None if data.prepared else size_for(data, task)
    if size is not None and splits.image_size is None and not untrained:
        # the network takes another size than that of the data
        side = _side(size)
        splits, recovery = splits.replace(image_size=side), recovery and recovery.replace(image_size=side)
    total = splits.epochs + (recovery.epochs if recovery else 0)
    scratch = splits.scaled(1).replace(epochs=total, record_gradients=False)  # milestones become parts
    own = own_run(target) is not None
    settings = "the dense network's run" if own and recipe is None else "the recipe"
    reason = f"those of {settings} and of the recovery"
    reason += "" if own else ", because the dense network's own are unknown"
    train, validation = data.split(splits.validation, splits.seed)
    return ClassifierSetup(
        name=title_of(target), teacher=teacher, start=teacher, data=data, train=train, validation=validation, task=task,
        budget=budget, config=config, recipe=recovery, scratch=scratch, reason=reason, methods=tuple(methods),
        controls=controls, **more,
    )  # fmt: skip
