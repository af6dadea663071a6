"""Methods and their sites: a method replaces a group of convolutions by a group of lean modules."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal, Self

from torch import nn

from leanconv.core.channel_form import ChannelForm
from leanconv.core.errors import SettingError
from leanconv.core.moments import Moments
from leanconv.core.spec import ConvSpec, Pair

Kind = Literal["conv", "linear"]
DENSE = "dense"  # what is no method: the convolution as it is
registered: dict[str, type[Method]] = {}  # by name; `leanconv.core.registry` finds them there


@dataclass(frozen=True, slots=True)
class Site:
    """One convolution or linear layer of a model, with its name and its output sizes.

    Args:
        name: the dotted name of the layer; ``""`` when the model is the layer itself.
        spec: the spec of the layer; for a linear layer, the spec of the 1x1 convolution that equals it at each position.
        stage: the ordinal of the layer's output size among the output sizes of all layers of its kind in the model. The
            largest size comes first. None when unknown.
        sizes: (height, width) of the output, once for each call in a forward pass, and once for each frame of an image that a
            network folds into the batch. For a linear layer (1, positions), where positions is the product of the leading
            dimensions for one image. Empty when unknown.
        kind: ``"conv"`` or ``"linear"``.
        maps: how many of `sizes` belong to each call; () where each call has one.

    >>> site = Site("conv1", ConvSpec(16, 32, 3, padding=1), sizes=((8, 8),))
    >>> site.layer, site.params(), site.macs()
    ('3x3 16->32', 4640, 294912)
    """

    name: str
    spec: ConvSpec
    stage: int | None = None
    sizes: tuple[Pair, ...] = ()
    kind: Kind = "conv"
    maps: tuple[int, ...] = ()

    @property
    def layer(self) -> str:
        """A short description of the layer: "3x3 16->32, stride 2" or "linear 192->768"."""
        return str(self.spec) if self.kind == "conv" else f"linear {self.spec.in_channels}->{self.spec.out_channels}"

    def params(self) -> int:
        """Parameters of the dense layer, bias included."""
        return self.spec.params()

    def macs(self) -> int:
        """Multiply-adds of the dense layer for one image, over all its calls; 0 when its sizes are unknown."""
        return sum(self.spec.macs(size) for size in self.sizes)


@dataclass(frozen=True, slots=True)
class OtherLayer:
    """A layer that stays dense because it has no `ConvSpec`.

    Examples are a Conv1d, a scripted convolution, and a convolution whose attributes contradict its weight. If linear layers
    are planned too, a quantised Linear and the projections of an attention are also such layers.

    Args:
        name: the dotted name of the layer.
        spec: the name of the layer's class.
        weights: the number of the layer's parameters.
    """

    name: str
    spec: str
    weights: int
    stage: ClassVar[None] = None
    sizes: ClassVar[tuple[Pair, ...]] = ()
    kind: ClassVar[None] = None

    @property
    def layer(self) -> str:
        """A short description of the layer: the name of its class."""
        return self.spec

    def params(self) -> int:
        """Parameters of the layer."""
        return self.weights

    def macs(self) -> int:
        """Always 0, because the multiply-adds are unknown here; `leanconv.count` counts the whole network."""
        return 0


@dataclass(frozen=True, slots=True)
class Skipped:
    """A layer that stays dense, with the reason."""

    site: Site | OtherLayer
    reason: str


@dataclass(frozen=True, slots=True)
class Group:
    """Layers of one kind that are converted together, and their method with all settings resolved.

    Raises:
        SettingError: `sites` is empty, or holds both kinds of layers.
    """

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
        """The kind of all sites: ``"conv"`` or ``"linear"``."""
        return self.sites[0].kind

    @property
    def specs(self) -> list[ConvSpec]:
        """The specs of the sites, in their order."""
        return [site.spec for site in self.sites]

    def build(self) -> list[nn.Module]:
        """New lean modules for the sites, in their order: operators of convolutions, or modules for linear layers."""
        make = self.method.build if self.kind == "conv" else self.method.build_linear
        return make(self.specs)

    def params(self) -> int:
        """Parameters of the lean modules, by the method's formula."""
        return self.method.params(self.specs)

    def macs(self) -> list[int]:
        """Multiply-adds of the lean modules for one image, one number for each site, by the method's formula."""
        specs, found = self.specs, []
        for index, site in enumerate(self.sites):
            every = sum(self.method.macs(specs, index, size) for size in site.sizes)
            again = sum(count - 1 for count in site.maps)  # maps of a call that computes its weight once
            found.append(every - again * self.method.macs(specs, index, (0, 0)) if again else every)
        return found


@dataclass(frozen=True)
class NamedSettings:
    """Settings with a name, as text ``name(setting=value)``: the base of methods, and of controls in a comparison.

    A subclass is a frozen dataclass. Its name is the snake case of the class name, or the ``name`` in the class body.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def settings(self) -> dict[str, Any]:
        """All settings by name, as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """The object with these settings.

        Raises:
            SettingError: there is no such setting, or a value is refused.
        """
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise SettingError(f"{cls.name} has no setting {name!r}; it has {', '.join(known)}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})

    def label(self) -> str:
        """The text: the name, the first setting, and all other settings that differ from their defaults.

        A setting that is None by default and was not set does not count as the first.
        """
        shown: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            default = field.default is not MISSING and value == field.default
            if not default or (not shown and value is not None):
                shown.append(f"{field.name}={value!r}")
        return f"{self.name}({', '.join(shown)})"


@dataclass(frozen=True)
class Method(NamedSettings, ABC):
    """The settings of one way to make convolutions lean; hashable, printable and serialisable.

    A subclass is a frozen dataclass of settings with defaults. Its name in files and on the command line is the snake case
    of the class name, or the ``name`` in the class body. `leanconv.find_method` finds the class by this name. An abstract
    subclass has no name.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not inspect.isabstract(cls):
            register(cls)

    @classmethod
    def grid(cls, specs: Sequence[ConvSpec], align: int) -> Sequence[Method]:
        """The settings that a search for a lean network tries on convolutions of one shape, see `leanconv.lean`.

        The default is the method with its default settings; a method without a default for each setting has no grid.

        Args:
            specs: all convolutions of one weight shape.
            align: the channels of a whole vector. The widths inside the operator should be multiples of this number.
        """
        complete = all(field.default is not MISSING or field.default_factory is not MISSING for field in fields(cls))
        return (cls(),) if complete else ()

    def aligned(self, spec: ConvSpec, align: int) -> Method | str:
        """This method with inner widths in multiples of `align` channels, for one convolution; or the reason why it has none.

        ``leanconv.plan(..., align=16)`` asks for each layer. The blocks, ratios or ranks of the result are as near to those of
        this method as whole vectors allow. The default returns this method, for operators whose convolutions have the widths
        of the layer that they replace.
        """
        return self

    def channel_form(self, spec: ConvSpec) -> ChannelForm | None:
        """How the form of a convolution depends on the order of its channels; None if it does not, or is not described."""
        return None

    @abstractmethod
    def reject(self, spec: ConvSpec) -> str | None:
        """The reason why this method cannot replace a convolution with this spec; None if it can."""

    def reject_linear(self, spec: ConvSpec) -> str | None:
        """The reason why this method cannot replace an ``nn.Linear``; None if it can.

        The default treats the linear layer as the 1x1 convolution `spec`.
        """
        return self.reject(spec)

    def group(self, sites: Sequence[Site]) -> tuple[list[Group], list[Skipped]]:
        """The groups of sites that are converted together, each with its resolved method, and the sites that stay dense.

        The default makes each accepted site a group of its own. All sites of one call have the same kind.
        """
        accepted, kept = self.accept(sites)
        return [Group(self, (site,)) for site in accepted], kept

    def accept(self, sites: Sequence[Site]) -> tuple[list[Site], list[Skipped]]:
        """The sites that `reject` (or `reject_linear`) accepts, and the other sites with the reason."""
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
        """New modules for one group of convolutions, in the order of `specs`."""

    def build_linear(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        """New modules for one group of linear layers, in the order of `specs`.

        The default builds the operators of the 1x1 convolutions `specs`. leanconv wraps each `ConvOp` in a `PointwiseLinear`.
        """
        return self.build(specs)

    @abstractmethod
    def params(self, specs: Sequence[ConvSpec]) -> int:
        """Parameters of the modules that `build(specs)` makes; a shared parameter counts once."""

    @abstractmethod
    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        """Multiply-adds of one call of module `index` of the group, for one image whose output is `out_hw` large."""

    @abstractmethod
    def fit_(
        self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Sequence[Moments] | None = None
    ) -> None:
        """Set the weights of `modules` in place to the nearest ones to the dense weights of `convs`.

        With `stats`, set the weights with the least mean squared difference of the outputs, E||(W - Ŵ) u + b - b̂||² over the
        inputs u that were measured, and never a larger one than the nearest weights have. A linear layer is passed as the 1x1
        convolution that equals it at each position.

        Args:
            stats: the moments of the unfolded input of each convolution (`leanconv.core.moments.Moments`), or None.
        """

    def ignores_inputs(self) -> str | None:
        """The reason why `fit_` does not use `stats`; None if it does. The default looks for the parameter."""
        if "stats" in inspect.signature(self.fit_).parameters:
            return None
        return "its fit_ takes no stats"

    def not_nearest(self) -> str | None:
        """The reason why `fit_` does not set the nearest weights; None if it does.

        The nearest weights have the least sum of squared differences between `LinearOp.weight_dense` and the dense weights,
        biases included. The contract (`leanconv.testing`) checks this for all linear operators whose method returns None.
        """
        return None

    def degenerate(self, spec: ConvSpec) -> Method | None:
        """This method with the settings at which the fitted operator equals the convolution; None without such settings."""
        return None


def register(kind: type[Method]) -> None:
    """Make a class known by its name; `Method` calls it for each subclass that is not abstract.

    A class that is defined again, in the same module under the same name, replaces the earlier one, as in a notebook.

    Raises:
        SettingError: another class has this name already, or it is no name.
    """
    name = kind.name
    if name == DENSE or not name.isidentifier():
        raise SettingError(f"{class_path(kind)} cannot be called {name!r}; {_other_name('my_method')}")
    other = registered.get(name)
    if other is not None and not _replaces(kind, other):
        raise SettingError(
            f"two methods are called {name!r}: {class_path(other)} and {class_path(kind)}; {_other_name('my_' + name)}"
        )
    registered[name] = kind


def _replaces(kind: type[Method], other: type[Method]) -> bool:
    """Whether `kind` is `other`, defined again; a dataclass with slots is so too, and gets its full name only afterwards."""
    return kind.__module__ == other.__module__ and kind.__qualname__ in (other.__qualname__, other.__name__)


def _other_name(example: str) -> str:
    return f"rename the class, or give it another name in its body: name = {example!r}"


def class_path(kind: type[Method]) -> str:
    """Module and qualified name of a class of `Method`."""
    return f"{kind.__module__}.{kind.__qualname__}"


def by_stage(method: Method, sites: Sequence[Site]) -> None:
    """Raise an error if the stage of a site is unknown; `method` shares weights within stages.

    Raises:
        SettingError: the stage of a site is unknown.
    """
    for site in sites:
        if site.stage is None:
            raise SettingError(
                f"{method.label()} shares weights within a stage, and the stage of {site.name!r} is unknown; "
                "pass plan(..., input_size=(channels, height, width)), or stages={glob: number}"
            )
