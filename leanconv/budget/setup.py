"""Everything that decides a search: the network, the images, the budget and the settings."""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from leanconv.budget.config import EXECUTION, LeanConfig
from leanconv.budget.limits import Budget
from leanconv.budget.parts import Metric, converted
from leanconv.budget.space import Candidate, Space, candidates_of
from leanconv.budget.times import Cache
from leanconv.conversion.methods import label_of
from leanconv.conversion.plan import Include, Place
from leanconv.core.count import count_macs
from leanconv.core.errors import DataError, SettingError
from leanconv.core.functions import function_text
from leanconv.core.layout import layout_of, with_layout
from leanconv.core.meta import InputSize
from leanconv.core.method import Method
from leanconv.core.modes import in_eval
from leanconv.files.target import code_digest, network_digest
from leanconv.train.config import RunConfig
from leanconv.train.once import CODE, THREADS

MACS = 128e9  # of a forward pass on all calibration images, if their number is not given
IMAGES = (16, 256)  # the least and the most calibration images, if their number is not given
CONVERTED = 8  # a sequential fit of fast_vgg on 256 images lost more than one that is not sequential; on 2,048, less
BATCH, PIXELS = 64, 64 * 256**2  # the most images, and the most pixels of all images, in a batch of calibration images
SHARE = 0.1  # of the epochs of the dense network's training, for the recovery
LR_SHARE = 0.5  # of its learning rate: better than 0.2 and 0.05 on the validation part of CIFAR-10, for a lean fast_vgg
Control = Callable[["Setup"], nn.Module]
AnyConfig = TypeVar("AnyConfig", bound=RunConfig)


@dataclass(frozen=True)
class Scored:
    """How good a network is.

    Args:
        value: the quality; higher is better.
        more: other measures, which the result shows.
    """

    value: float
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup(ABC):
    """The input of a search, prepared. A subclass says what the networks are for: how they are scored, trained and saved.

    The layers of one module, `teacher`, are searched. It may be a part of the network that is scored, trained and saved, as
    the backbone is a part of a detector: `whole` and `part` go from one to the other. A candidate's score is the divergence of
    the output of `teacher`, and all costs are those of `teacher`.

    Args:
        name: the name of the network, for messages.
        teacher: the dense module whose layers are searched, in eval mode, in the layout that suits it; a copy of the user's.
        budget, config: the limits and the settings.
        methods, where, exclude, include: the candidates, as in `candidates_of`.
        metric: scores a network in place of the usual quality.
        controls: what the result is compared with: built-in controls, or functions that return a module in place of `teacher`,
            by name.
        cache: the file of measured times.
        start: the network whose layers the candidates replace: the teacher, or the teacher with fewer channels.
    """

    kind: ClassVar[str] = "lean"  # of the result

    name: str
    teacher: nn.Module
    budget: Budget
    config: LeanConfig
    methods: tuple[str | Method, ...]
    where: tuple[Place, ...]
    exclude: tuple[Place, ...]
    include: Include | None
    metric: Metric | None
    controls: dict[str, Control | None]
    cache: Cache
    start: nn.Module

    def from_(self, start: nn.Module, methods: Sequence[str | Method] | None = None) -> Setup:
        """The same search from another network, on the same images.

        Args:
            start: the network.
            methods: the candidates' methods; None leaves them.
        """
        found = replace(self, start=start, methods=self.methods if methods is None else tuple(methods))
        found.__dict__.update({name: getattr(self, name) for name in ("_asked", "_drawn")})  # they are read once
        return found

    @property
    @abstractmethod
    def input_size(self) -> InputSize:
        """(channels, height, width) of an image as `teacher` takes it."""

    @property
    def classes(self) -> int:
        """The number of classes whose scores `teacher` gives out; 0 if it gives out anything else."""
        return 0

    @property
    def dense(self) -> nn.Module:
        """The whole dense network."""
        return self.teacher

    def whole(self, part: nn.Module) -> nn.Module:
        """The network with `part`, a converted or narrower copy of `teacher`, in the place of `teacher`."""
        return part

    def part(self, whole: nn.Module) -> nn.Module:
        """The module of a network that replaces `teacher` there."""
        return whole

    @abstractmethod
    def calibration(self, count: int) -> Tensor:
        """At most `count` images of the train part as `teacher` takes them, (N, C, H, W); all images, if there are fewer."""

    @abstractmethod
    def usual(self, network: nn.Module) -> Scored:
        """The quality of a network without a metric of the user's, for choices."""

    @abstractmethod
    def train_(self, network: nn.Module, folder: Path, *, scratch: bool, progress: bool) -> int:
        """Train a converted network, in place, to do what the dense network does. A stopped training in `folder` continues.

        Args:
            network: the whole network.
            folder: of the training.
            scratch: the network has new weights, so it is trained as long as the dense network, and for the recovery too.
            progress: show the progress.

        Returns:
            the number of epochs; 0 if there is no training.
        """

    @property
    @abstractmethod
    def trains(self) -> bool:
        """Whether `train_` trains a network, the lean one or a control."""

    @property
    @abstractmethod
    def effort(self) -> str:
        """How long a network is trained from scratch, in words."""

    @abstractmethod
    def finals(
        self, networks: Mapping[str, nn.Module], more: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """What a last look at each network adds to its row, after all choices are made.

        Args:
            networks: all networks in eval mode, by name; the first is the dense one.
            more: of each network: "before" and "after", `Scored.more` before and after its training.
        """

    @abstractmethod
    def save(self, network: nn.Module, folder: Path) -> None:
        """Save a network."""

    @abstractmethod
    def load(self, folder: Path) -> nn.Module:
        """A network that `save` wrote."""

    @abstractmethod
    def exported(self, network: nn.Module, folder: Path, to: str) -> dict[str, Any]:
        """Export a network to a format, and score the file: the values of the result's "exported"."""

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
    def held(self) -> Tensor:
        """The images on which candidates and networks are compared with the dense one, beside all of the fits: (N, C, H, W).

        A fit has learned its own images: late layers of fast_vgg were up to seven times as good on them as on others.
        """
        return self._drawn[: self._held]

    @cached_property
    def images(self) -> Tensor:
        """The calibration images of the candidates' fits, from the train part without the validation part: (N, C, H, W)."""
        return self._drawn[self._held :][: self._asked]

    @cached_property
    def batches(self) -> list[Tensor]:
        """`CONVERTED` times as many images in batches, for the fit of the chosen network and the statistics of its norms.

        No batch has a single image, unless there is no other: a batch norm may see one value of it, which has no variance.
        """
        return self.in_batches(self._drawn[self._held :])

    def in_batches(self, images: Tensor) -> list[Tensor]:
        """`images` in batches that the memory holds."""
        _, height, width = self.input_size
        size = max(2, min(BATCH, PIXELS // (height * width)))
        return list(images.tensor_split([*range(size, len(images) - 1, size)]))

    @cached_property
    def _asked(self) -> int:
        if self.config.images is not None:
            return self.config.images
        return int(min(max(MACS // count_macs(self.teacher, self.input_size), IMAGES[0]), IMAGES[1]))

    @property
    def _held(self) -> int:
        """How many images are held for comparisons: as many as a fit has, and at most a quarter of all, but at least one."""
        return max(1, min(self._asked, len(self._drawn) // 4))

    @cached_property
    def _drawn(self) -> Tensor:
        found = self.calibration((1 + CONVERTED) * self._asked)
        if len(found) < 2:
            raise DataError(
                f"{self.name}: a search needs two images of the train part or more, and there is {len(found)}"
            )
        parameter = next(self.teacher.parameters())
        return with_layout(found.to(parameter.device, parameter.dtype), layout_of(self.teacher))

    @cached_property
    def space(self) -> Space:
        """All candidates."""
        return candidates_of(
            self.start, self.input_size, methods=self.methods, align=self.config.align, where=self.where or "*",
            exclude=self.exclude, include=self.include or (), blocks=self.config.remove_blocks,
            required=self.start is self.teacher,
        )  # fmt: skip

    def network(
        self, chosen: Sequence[Candidate], reasons: Mapping[str, str] | None = None, *, fit: bool = True
    ) -> nn.Module:
        """The module of a choice: `start`, converted.

        Args:
            chosen: candidates that contain each layer once.
            reasons: why a layer stays dense, by its name.
            fit: fit the lean layers to the dense outputs, and estimate the norms again; otherwise they have new weights.
        """
        plan, removed = self.space.plan(chosen, reasons), self.space.removed(chosen)
        return converted(self.start, plan, self.batches if fit else None, removed)

    @torch.no_grad()
    def scored(self, network: nn.Module) -> Scored:
        """The quality of a network for choices: by the user's metric, or else the usual one."""
        network = in_eval(network)
        return self.usual(network) if self.metric is None else Scored(_number(self.metric(network)))

    @property
    def functions(self) -> dict[str, object]:
        """The functions of the user's that decide the result, by their arguments, in addition to the controls."""
        return {"metric": self.metric}

    def identity(self) -> dict[str, Any]:
        """The search as JSON values: two searches with equal identities are the same search."""
        config = {name: value for name, value in self.config.to_json().items() if name not in EXECUTION}
        given = {name: function for name, function in self.functions.items() if function is not None}
        more: dict[str, Any] = {name: function_text(function) for name, function in given.items()}
        if self.timed:
            more[THREADS] = self.config.threads
        return {
            "target": self.name,
            "network": network_digest(self.dense),
            CODE: code_digest(self.dense),
            "weights": weights_digest(self.dense),
            "budget": asdict(self.budget) | {"limits": [asdict(limit) for limit in self.budget.limits]},
            "config": config,
            "methods": [method if isinstance(method, str) else label_of(method) for method in self.methods],
            "where": [place if isinstance(place, str) else function_text(place) for place in self.where],
            "exclude": [place if isinstance(place, str) else function_text(place) for place in self.exclude],
            "include": self.include,
            "controls": [
                name if control is None else f"{name}: {function_text(control)}"
                for name, control in self.controls.items()
            ],
        } | more


def _number(value: object) -> float:
    """What a metric returns, as a number.

    Raises:
        SettingError: it is no finite number.
    """
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several values
        found = math.nan
    if not math.isfinite(found):
        raise SettingError(
            f"metric= gives {value!r:.80} for a network; it must return one finite number, higher is better"
        )
    return found


def recovery_of(base: AnyConfig, epochs: int | None) -> AnyConfig | None:
    """The settings of the training after a conversion; None for no training.

    Args:
        base: the settings of the dense network's training.
        epochs: how long; None takes `SHARE` of `base`.
    """
    epochs = max(1, round(base.epochs * SHARE)) if epochs is None else epochs
    if epochs == 0:
        return None
    shorter = base.scaled(epochs / base.epochs) if epochs <= base.epochs else base.replace(epochs=epochs)
    return shorter.replace(lr=base.lr * LR_SHARE, record_gradients=False)


def weights_digest(model: nn.Module) -> str:
    """CRC-32 of all entries of the state dict."""
    value = 0
    for name, tensor in model.state_dict().items():
        held = tensor.detach().cpu().contiguous(memory_format=torch.contiguous_format).flatten()
        value = zlib.crc32(
            held.view(torch.uint8).numpy().tobytes() if held.numel() else b"", zlib.crc32(name.encode(), value)
        )
    return f"{value:08x}"
