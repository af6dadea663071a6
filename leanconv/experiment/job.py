"""The definition of a run: a network, a method, images and settings."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from leanconv.conversion.apply import fitted, plan_of
from leanconv.conversion.methods import label_of
from leanconv.conversion.useful import stem, useful_plan
from leanconv.core.errors import SettingError
from leanconv.core.method import Method
from leanconv.core.notes import get_task, set_task
from leanconv.core.task import Task
from leanconv.core.task_settings import TaskSettings
from leanconv.data import ImageData, describe
from leanconv.experiment.controls import Control
from leanconv.experiment.teacher import Teacher
from leanconv.files.target import Network, absolute, built, network_name
from leanconv.files.weights import Weights, open_with_weights
from leanconv.models.task import task_from
from leanconv.train.config import EXECUTION, TrainConfig
from leanconv.train.once import CLASS_NAMES, layers_of
from leanconv.train.prepared import check_fits, image_size_of, parts_of, some_batches

if TYPE_CHECKING:
    from leanconv.conversion.apply import Init
    from leanconv.conversion.plan import Include

FIT_IMAGES = 512  # of the train part, for init="fit"


@dataclass(frozen=True)
class Job:
    """Everything that determines the result of a run.

    Args:
        network: a target as on the command line, a network, or a function that returns a network (called after seeding).
        method: the method, or a control; None trains the network unconverted.
        data, config: the images and the settings.
        where, exclude, init, pretrained: as in `leanconv.fit`.
        keep_stem: leave the first convolution dense, even if a glob matches it.
        name: the name of the run in tables; by default the text of its method.
        in_place: train the given network itself; otherwise each run trains a copy.
        include: "linear" converts linear layers too, as in `leanconv.plan`.
        teacher: the network from which this network learns; None trains on the labels alone.
        align: the channels of a whole vector, as in `leanconv.plan`.
        weights: the checkpoint to start from, for a network by name; None for none.
        task: what the user tells of the network's training: the order of its classes, its normalisation.
    """

    network: Network
    method: Method | Control | None
    data: ImageData
    config: TrainConfig
    where: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    init: Init = "fresh"
    pretrained: bool = False
    keep_stem: bool = False
    name: str | None = None
    in_place: bool = False
    include: Include | None = None
    teacher: Teacher | None = None
    align: int | None = None
    weights: Weights | None = None
    task: TaskSettings = field(default_factory=TaskSettings)

    @property
    def label(self) -> str:
        return self.name or label_of(self.method)

    def label_of(self, network: nn.Module) -> str:
        """The label of the trained network: a network that was lean before has the methods of its plan."""
        before = plan_of(network) if self.name is None and self.method is None else None
        return " + ".join(dict.fromkeys(label_of(group.method) for group in before.groups)) if before else self.label

    @property
    def target(self) -> str:
        """The name of the network: the text, or the name of the class or function."""
        return network_name(self.network)

    @property
    def image_size(self) -> tuple[int, int]:
        return image_size_of(self.data, self.config)

    @property
    def input_size(self) -> tuple[int, int, int]:
        return (self.data.channels, *self.image_size)

    @cached_property
    def _layers(self) -> dict[str, Any]:
        return layers_of(self.network)

    def identity(self) -> dict[str, Any]:
        """The job as JSON values: two runs with equal identities are the same run."""
        train = self.config.identity()
        seed = train.pop("seed")
        facts = describe(self.data)
        return (
            {
                "target": self.target,
                **self._layers,
                "method": label_of(self.method),
                "seed": seed,
                "data": facts | {"classes": len(facts["classes"]), CLASS_NAMES: list(self.data.names)},
                "where": list(self.where),
                "exclude": list(self.exclude),
                "stem_kept_dense": self.keep_stem,
                "init": self.init,
                "pretrained": self.pretrained,
                "train": train,
            }
            | self._included()
            | self._fitted()
            | ({"teacher": self.teacher.digest} if self.teacher else {})
            | ({"weights": {"file": self.weights.digest, "state": self.weights.state}} if self.weights else {})
            | ({"task": self._told()} if self.task.given else {})
        )

    def _told(self) -> dict[str, Any]:
        """What is told of the network's training, as JSON values."""
        return {name: value for name, value in self.task.to_json().items() if value is not None}

    def _included(self) -> dict[str, Any]:
        """The keys "include" and "align" for runs that convert linear layers or align widths; other runs do not have them."""
        given = {"include": self.include, "align": self.align}
        return {name: value for name, value in given.items() if value}

    def _fitted(self) -> dict[str, Any]:
        """The key "fit_images" for runs that start from a fit to outputs; other runs do not have this key."""
        return {"fit_images": FIT_IMAGES} if self.init == "fit" and self.method is not None else {}

    def execution(self) -> dict[str, Any]:
        """The settings of the execution, which do not change the result."""
        return {name: getattr(self.config, name) for name in EXECUTION}

    def request(self, network: nn.Module, accelerator: str = "auto") -> dict[str, Any] | None:
        """The arguments besides the settings with which `leanconv train` repeats this run; None if it cannot.

        Args:
            network: the network that `build` returned.
        """
        if not isinstance(self.network, str) or self.data.origin is None:
            return None
        if self.teacher is not None and self.teacher.target is None:
            return None
        kept = [stem(network)] if self.keep_stem and self.method is not None else []
        return {
            "target": absolute(self.network),
            "method": label_of(self.method),
            "where": list(self.where),
            "exclude": [*self.exclude, *kept],
            "init": self.init,
            "pretrained": self.pretrained,
            **self._included(),
            **({"teacher": self.teacher.target} if self.teacher else {}),
            **({"weights": str(self.weights.path.resolve()), "state": self.weights.state} if self.weights else {}),
            **{name: _flag(value) for name, value in self._told().items()},
            **self.data.origin,
            "device": accelerator,
        }

    def build(self) -> nn.Module:
        """The network to train, built from the seed: layers that are not converted start with equal weights in every method."""
        torch.manual_seed(self.config.seed)
        model = self.base()
        check_fits(model, self.in_order_of(model).data, self.image_size)
        if self.method is None:
            return model
        if isinstance(self.method, Control):
            return self.method.apply(model, self.input_size)
        exclude = (*self.exclude, stem(model)) if self.keep_stem else self.exclude
        plan = useful_plan(
            model, self.method, self.where or "*", exclude, self.input_size, self.include or (), self.align
        )
        return fitted(model, plan, self.init, self.in_order_of(model)._images_to_fit() if self.init == "fit" else None)

    def _images_to_fit(self) -> list[Tensor]:
        """Images of the train part, without the ones that are held out for validation, as training feeds them."""
        part, _ = parts_of(self.data, self.config)
        task = Task(self.data.mean, self.data.std, self.image_size)
        return list(some_batches(part, self.data, task, FIT_IMAGES, seed=self.config.seed, batch_size=128))

    def base(self) -> nn.Module:
        """The network before it is converted."""
        if isinstance(self.network, str):
            model = open_with_weights(
                self.network, None if self.weights is None else self.weights.path,
                state=None if self.weights is None else self.weights.state, pretrained=self.pretrained,
                num_classes=len(self.data.classes), in_chans=self.data.channels,
            )  # fmt: skip
            if self.task.given:
                set_task(model, task_from(model, self.task.replace(image_size=self.image_size[0])))
            return model
        if self.weights is not None:
            raise SettingError("weights= is for networks by name; fill this one with lc.load_checkpoint(model, path)")
        if self.pretrained:
            raise SettingError("pretrained=True is for networks by name; this one brings its weights")
        return self.network if self.in_place and isinstance(self.network, nn.Module) else built(self.network)

    def in_order_of(self, model: nn.Module) -> Job:
        """The job with the classes of its data in the order of `model`, if `model` was trained before."""
        task = get_task(model)
        if task is None:
            return self
        data = self.data.for_classes(task.classes)
        if self.task.mean is not None or self.task.like is not None:  # train as the checkpoint was trained
            data = replace(data, mean=task.mean, std=task.std)
        return replace(self, data=data)


def _flag(value: Any) -> Any:
    """A value as the text of its flag: class names as JSON, because a name may hold a comma."""
    if not isinstance(value, list):
        return value
    return json.dumps(value) if value and isinstance(value[0], str) else ",".join(map(str, value))
