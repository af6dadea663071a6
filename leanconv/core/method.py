"""A method maps a group of convolutions to a group of modules."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal

from torch import nn

from leanconv.core.errors import SettingError
from leanconv.core.registry import register
from leanconv.core.spec import ConvSpec, Pair

Kind = Literal["conv", "linear"]


@dataclass(frozen=True, slots=True)
class Site:
    """One convolution or linear layer of a model and where it stands.

    Args:
        name: its dotted name; ``""`` when the model is the layer itself.
        spec: of a linear layer, that of the 1x1 convolution that it is at each position.
        stage: the ordinal of its output size among those of its kind in the model, largest first; None when unknown.
        sizes: its output's (height, width), once for each time a forward pass calls it; of a linear layer (1, positions),
            the product of its leading dimensions for one image. Empty when unknown.
        kind: ``"conv"`` or ``"linear"``.
    """

    name: str
    spec: ConvSpec
    stage: int | None = None
    sizes: tuple[Pair, ...] = ()
    kind: Kind = "conv"

    @property
    def layer(self) -> str:
        """What it is, in a word or two: "3x3 16->32, stride 2" or "linear 192->768"."""
        return str(self.spec) if self.kind == "conv" else f"linear {self.spec.in_channels}->{self.spec.out_channels}"

    def params(self) -> int:
        return self.spec.params()

    def macs(self) -> int:
        return sum(self.spec.macs(size) for size in self.sizes)


@dataclass(frozen=True, slots=True)
class OtherLayer:
    """A layer that convolves and has no `ConvSpec`: a Conv1d, a scripted one, one that contradicts itself. It stays dense.

    Where linear layers are planned too, also one of those: a quantised Linear, the projections of an attention.

    Args:
        spec: what it is; the name of its class.
        weights: its parameters.
    """

    name: str
    spec: str
    weights: int
    stage: ClassVar[None] = None
    sizes: ClassVar[tuple[Pair, ...]] = ()
    kind: ClassVar[None] = None

    @property
    def layer(self) -> str:
        return self.spec

    def params(self) -> int:
        return self.weights

    def macs(self) -> int:
        """Unknown, and counted as 0 here; `leanconv.count` counts the network."""
        return 0


@dataclass(frozen=True, slots=True)
class Skipped:
    """A layer that stays dense, and why."""

    site: Site | OtherLayer
    reason: str


@dataclass(frozen=True, slots=True)
class Group:
    """Layers of one kind that convert together, and the method resolved for them."""

    method: Method
    sites: tuple[Site, ...]

    def __post_init__(self) -> None:
        if not self.sites:
            raise SettingError(f"a group of {self.method.label()} holds no convolution; it needs at least one")
        if len({site.kind for site in self.sites}) > 1:
            raise SettingError(
                f"a group of {self.method.label()} holds convolutions and linear layers; give each kind groups of its own"
            )

    @property
    def kind(self) -> Kind:
        return self.sites[0].kind

    @property
    def specs(self) -> list[ConvSpec]:
        return [site.spec for site in self.sites]

    def params(self) -> int:
        return self.method.params(self.specs)

    def macs(self) -> list[int]:
        """Multiply-adds for one image, one figure a site, by the method's formula."""
        specs = self.specs
        return [sum(self.method.macs(specs, i, size) for size in site.sizes) for i, site in enumerate(self.sites)]


@dataclass(frozen=True)
class Method(ABC):
    """Hyper-parameters of one way to make convolutions lean; hashable, printable, serialisable.

    A subclass is a frozen dataclass of settings with defaults. Its name in files and on the command line is the snake case
    of the class, or the ``name`` in its body; by that name `leanconv.find_method` finds it from then on. An abstract
    subclass has none.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        if not inspect.isabstract(cls):
            register(cls)

    def settings(self) -> dict[str, Any]:
        """Every setting by name, as values that JSON knows."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Method:
        """The method with these settings.

        Raises:
            SettingError: a setting the method does not have, or a value it refuses.
        """
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise SettingError(f"{cls.name} has no setting {name!r}; it has {', '.join(known)}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})

    def label(self) -> str:
        """The canonical text: the first setting, and each other one that differs from its default."""
        shown = []
        for index, field in enumerate(fields(self)):
            value = getattr(self, field.name)
            if index == 0 or field.default is MISSING or value != field.default:
                shown.append(f"{field.name}={value!r}")
        return f"{self.name}({', '.join(shown)})"

    @abstractmethod
    def reject(self, spec: ConvSpec) -> str | None:
        """Why this method cannot stand in for such a convolution; None when it can."""

    def reject_linear(self, spec: ConvSpec) -> str | None:
        """Why this method cannot stand in for an ``nn.Linear``; None when it can.

        The default treats it as the 1x1 convolution `spec`.
        """
        return self.reject(spec)

    def group(self, sites: Sequence[Site]) -> tuple[list[Group], list[Skipped]]:
        """Which sites convert together, with the method resolved for each group, and which stay dense.

        The default makes every accepted site a group of one. All sites of one call are of one kind.
        """
        accepted, kept = self.accept(sites)
        return [Group(self, (site,)) for site in accepted], kept

    def accept(self, sites: Sequence[Site]) -> tuple[list[Site], list[Skipped]]:
        """The sites that `reject` lets through, and the others with its reason."""
        accepted: list[Site] = []
        kept: list[Skipped] = []
        for site in sites:
            reason = (self.reject if site.kind == "conv" else self.reject_linear)(site.spec)
            if reason is None:
                accepted.append(site)
            else:
                kept.append(Skipped(site, reason))
        return accepted, kept

    @abstractmethod
    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        """New modules for one group of convolutions, in their order."""

    def build_linear(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        """New modules for one group of linear layers, in their order; a `ConvOp` among them is wrapped (`PointwiseLinear`).

        The default builds the operators of the 1x1 convolutions `specs`.
        """
        return self.build(specs)

    @abstractmethod
    def params(self, specs: Sequence[ConvSpec]) -> int:
        """Parameters of the modules that `build(specs)` makes, each shared one once."""

    @abstractmethod
    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        """Multiply-adds of one call of module `index` of the group, for one image with an output of `out_hw`."""

    @abstractmethod
    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d]) -> None:
        """Set the lean weights nearest to the dense ones, in place; linear layers come as the 1x1 convolutions that they are."""

    def not_nearest(self) -> str | None:
        """Why the fit is not the nearest lean network to the dense one; None when it is.

        "Nearest" means the least sum of squared differences between `LinearOp.weight_dense` and the dense weights, biases
        too. The contract (`leanconv.testing`) holds every linear operator to it whose method gives no reason here.
        """
        return None

    def degenerate(self, spec: ConvSpec) -> Method | None:
        """The settings at which nothing is saved, so that the fit of one such convolution equals it; None for none."""
        return None


def by_stage(method: Method, sites: Sequence[Site]) -> None:
    """Raise where `method` shares within stages and a site's stage is unknown."""
    for site in sites:
        if site.stage is None:
            raise SettingError(
                f"{method.label()} shares weights within a stage, and the stage of {site.name!r} is unknown; "
                "pass plan(..., input_size=(channels, height, width)), or stages={glob: number}"
            )
