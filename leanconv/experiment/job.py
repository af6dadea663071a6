"""What a run is about: a network, a method, images and settings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from leanconv.conversion.apply import convert
from leanconv.conversion.methods import label_of
from leanconv.conversion.useful import stem, useful_plan
from leanconv.core.copying import copied
from leanconv.core.errors import SettingError
from leanconv.core.method import Method
from leanconv.core.notes import get_task
from leanconv.data import ImageData, describe
from leanconv.files.target import is_saved, open_target
from leanconv.train.config import EXECUTION, TrainConfig
from leanconv.train.once import CLASS_NAMES
from leanconv.train.prepared import check_fits

if TYPE_CHECKING:
    from leanconv.conversion.apply import Init
    from leanconv.conversion.plan import Include

# a name or a folder, a network, or a function that makes one
Network = str | nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True)
class Job:
    """Everything that decides what a run gives.

    Args:
        network: a target as on the command line, a network, or a function that makes one (called after seeding).
        method: None trains the network as it is.
        name: what the run is called in tables; by default the text of its method.
        keep_stem: leave the first convolution dense whatever the globs say.
        in_place: train a network that was handed in itself; else each run trains a copy.
        include: "linear" converts linear layers too, as in `leanconv.plan`.
    """

    network: Network
    method: Method | None
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

    @property
    def label(self) -> str:
        return self.name or label_of(self.method)

    @property
    def target(self) -> str:
        """The network's name: the text, or its class."""
        if isinstance(self.network, str):
            return self.network
        return getattr(self.network, "__name__", type(self.network).__name__)

    @property
    def image_size(self) -> tuple[int, int]:
        asked = self.config.image_size
        size = (asked, asked) if isinstance(asked, int) else self.data.image_size
        if size is None:
            raise SettingError(f"the images of {self.data.name} vary in size; give --image-size (image_size=), 224 say")
        return size

    @property
    def input_size(self) -> tuple[int, int, int]:
        return (self.data.channels, *self.image_size)

    def identity(self) -> dict[str, Any]:
        """The same as values that JSON knows: two runs with equal identities are the same run."""
        train = {name: value for name, value in self.config.to_json().items() if name not in EXECUTION}
        seed = train.pop("seed")
        facts = describe(self.data)
        own = {"network": _digest(self.network)} if isinstance(self.network, nn.Module) else {}
        return {
            "target": self.target,
            **own,
            "method": label_of(self.method),
            "seed": seed,
            "data": facts | {"classes": len(facts["classes"]), CLASS_NAMES: list(self.data.names)},
            "where": list(self.where),
            "exclude": list(self.exclude),
            "stem_kept_dense": self.keep_stem,
            "init": self.init,
            "pretrained": self.pretrained,
            "train": train,
        } | self._included()

    def _included(self) -> dict[str, Any]:
        """What is planned beside convolutions; runs without it have no such key."""
        return {"include": self.include} if self.include else {}

    def execution(self) -> dict[str, Any]:
        """How the run is carried out, which does not decide what it gives."""
        return {name: getattr(self.config, name) for name in EXECUTION}

    def request(self, network: nn.Module, accelerator: str = "auto") -> dict[str, Any] | None:
        """What `leanconv train` is given besides the settings to repeat this run; None where the command line cannot.

        Args:
            network: what `build` made.
        """
        if not isinstance(self.network, str) or self.data.origin is None:
            return None
        kept = [stem(network)] if self.keep_stem and self.method is not None else []
        target = self.network
        return {
            "target": str(Path(target).expanduser().resolve()) if is_saved(target) else target,
            "method": label_of(self.method),
            "where": list(self.where),
            "exclude": [*self.exclude, *kept],
            "init": self.init,
            "pretrained": self.pretrained,
            **self._included(),
            **self.data.origin,
            "device": accelerator,
        }

    def build(self) -> nn.Module:
        """The network to train, from this job's seed: what is not converted starts alike under every method."""
        torch.manual_seed(self.config.seed)
        model = self.base()
        check_fits(model, self.in_order_of(model).data, self.image_size)
        if self.method is None:
            return model
        exclude = (*self.exclude, stem(model)) if self.keep_stem else self.exclude
        plan = useful_plan(model, self.method, self.where or "*", exclude, self.input_size, self.include or ())
        return convert(model, plan, self.init)

    def base(self) -> nn.Module:
        """The network before it is converted."""
        if isinstance(self.network, str):
            classes, channels = len(self.data.classes), self.data.channels
            return open_target(self.network, pretrained=self.pretrained, num_classes=classes, in_chans=channels)
        if self.pretrained:
            raise SettingError("pretrained=True is for networks by name; this one brings its weights")
        if isinstance(self.network, nn.Module):
            return self.network if self.in_place else copied(self.network)
        return self.network()

    def in_order_of(self, model: nn.Module) -> Job:
        """The same on data whose classes have the order of a network that was trained before."""
        task = get_task(model)
        return self if task is None else replace(self, data=self.data.for_classes(task.classes))


def _digest(model: nn.Module) -> str:
    """What a network is made of, in a few letters; addresses of objects, which differ each time, are left out."""
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(model)).encode()).hexdigest()[:16]
