"""The record of a module: one typed object with everything that leanconv stores on a module.

The record is in the module's ``__dict__`` and is never changed, only replaced. All ways to copy a module (copy, deepcopy,
pickle, ``torch.save``, an averaged model) copy the record too, and a change on the copy does not change the original.
A new FX trace is another network and starts without a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn
from torch.fx import GraphModule

from leanconv.core.method import Group, Skipped
from leanconv.core.task import Task

ATTRIBUTE = "leanconv_record"


class PlanData(Protocol):
    """The part of `leanconv.Plan` that a record needs; a later package defines `leanconv.Plan`."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of layers that are converted."""
        ...

    @property
    def kept(self) -> tuple[Skipped, ...]:
        """The layers that stay dense."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        ...


class ChannelPlanData(Protocol):
    """The part of `leanconv.ChannelPlan` that a record needs; a later package defines `leanconv.ChannelPlan`."""

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """The place of a converted layer in its plan, which copies and parts of the network keep.

    Args:
        group: the group of the layer. All layers of a group refer to one object; a copy of the network has its own object.
        index: the position of the layer's site in the group.
    """

    group: Group
    index: int


@dataclass(frozen=True)
class Choice:
    """The form that `leanconv.optimize` chose for one layer.

    Args:
        layer: the name of the layer.
        form: the name of the form.
        times_ms: milliseconds per call for each measured form; empty if nothing was measured.
    """

    layer: str
    form: str
    times_ms: dict[str, float]


@dataclass(frozen=True)
class NotRewritten:
    """A module that `leanconv.optimize` did not rewrite.

    Args:
        name: the name of the module in the network; "" for the network itself.
        reason: why the module was not rewritten as a whole; modules inside may have been rewritten.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Optimized:
    """The choices of `leanconv.optimize` for a network, and the modules that were not rewritten."""

    choices: tuple[Choice, ...]
    not_rewritten: tuple[NotRewritten, ...]


@dataclass(frozen=True)
class Record:
    """Everything that leanconv stores on one module.

    Args:
        base: ``{"name", "kwargs"}`` with which `create_model` builds such a network; None when unknown.
        task: the task of the network, set by `leanconv.set_task`.
        channels: the channel plans by which a network became narrower or shallower, in their order, on its root module.
        plan: the plan of a converted network, on its root module. It names the layers of the narrower network.
        member: the place of a converted layer in its plan.
        carried: names of the attributes that a converted layer has from the layer that it replaced.
        sparse: names of the state dict entries that are saved without their zeros.
        optimized: the choices of `leanconv.optimize`, on the network that it returned.
        detector: the arguments of `leanconv.detect.create_detector`, without the network of the backbone.
    """

    base: Mapping[str, Any] | None = None
    task: Task | None = None
    channels: tuple[ChannelPlanData, ...] = ()
    plan: PlanData | None = None
    member: Member | None = None
    carried: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    optimized: Optimized | None = None
    detector: Mapping[str, Any] | None = None


EMPTY = Record()


def get_record(module: nn.Module) -> Record:
    """The record of `module` itself; an empty record when nothing is stored.

    >>> get_record(nn.Conv2d(3, 8, 3)).plan is None
    True
    """
    found = module.__dict__.get(ATTRIBUTE)
    if found is None and isinstance(module, GraphModule):
        found = getattr(module, "meta", {}).get(ATTRIBUTE)  # torchvision's feature extractor has none
    return EMPTY if found is None else found


def set_record(module: nn.Module, record: Record) -> None:
    """Replace the record of `module`; to change one entry, pass ``replace(get_record(module), task=task)``."""
    module.__dict__[ATTRIBUTE] = record
    if isinstance(module, GraphModule):  # copies of a GraphModule keep only its meta, and pickles keep everything else
        module.meta = {**getattr(module, "meta", {}), ATTRIBUTE: record}
