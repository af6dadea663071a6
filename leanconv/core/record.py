"""What leanconv notes on a module: one typed record, which goes wherever the module goes.

The record lies in the module's ``__dict__`` and is never changed, only replaced. So every way to copy a module (copy,
deepcopy, pickle, ``torch.save``, an averaged model) copies the record too, and a change on the copy leaves the original
as it was. A new FX trace is another network and starts without a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn
from torch.fx import GraphModule

from leanconv.core.method import Group, Skipped

if TYPE_CHECKING:
    from leanconv.core.task import Task

ATTRIBUTE = "leanconv_record"


class PlanData(Protocol):
    """What a record needs of a `leanconv.Plan`, which a later package defines."""

    @property
    def groups(self) -> tuple[Group, ...]: ...

    @property
    def kept(self) -> tuple[Skipped, ...]: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Member:
    """The place of a converted layer in its plan, so that a copy or a part of the network still knows it.

    Args:
        group: one object for all layers of a group; a copy of the network has one of its own.
        index: which of the group's sites the layer replaced.
    """

    group: Group
    index: int


@dataclass(frozen=True)
class Choice:
    """The form that `leanconv.optimize` took for one layer.

    Args:
        times_ms: milliseconds a call of every form that was measured; empty where the rule decided.
    """

    layer: str
    form: str
    times_ms: dict[str, float]


@dataclass(frozen=True)
class NotRewritten:
    """A module that `leanconv.optimize` left as it is.

    Args:
        name: in the network; "" for the network itself.
        reason: why it was not rewritten as a whole; modules in it may have been.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Optimized:
    """What `leanconv.optimize` did to a network."""

    choices: tuple[Choice, ...]
    not_rewritten: tuple[NotRewritten, ...]


@dataclass(frozen=True)
class Record:
    """Everything that leanconv notes on one module.

    Args:
        base: ``{"name", "kwargs"}`` with which `create_model` builds such a network; None where that is unknown.
        task: what the network was trained for, as `leanconv.set_task` noted it.
        plan: of a converted network, on its root.
        member: of a converted layer, its place in the plan.
        sparse: state dict entries that are saved without their zeros.
        optimized: of a network that `leanconv.optimize` returned.
        detector: how `leanconv.detect.create_detector` made the detector, without its backbone's network.
    """

    base: Mapping[str, Any] | None = None
    task: Task | None = None
    plan: PlanData | None = None
    member: Member | None = None
    sparse: tuple[str, ...] = ()
    optimized: Optimized | None = None
    detector: Mapping[str, Any] | None = None


EMPTY = Record()


def get_record(module: nn.Module) -> Record:
    """What is noted on `module` itself; an empty record where nothing is.

    >>> get_record(nn.Conv2d(3, 8, 3)).plan is None
    True
    """
    found = module.__dict__.get(ATTRIBUTE)
    if found is None and isinstance(module, GraphModule):
        found = getattr(module, "meta", {}).get(ATTRIBUTE)  # torchvision's feature extractor has none
    return EMPTY if found is None else found


def set_record(module: nn.Module, record: Record) -> None:
    """Note `record` on `module` in place of what was noted; write ``replace(get_record(module), task=task)`` to add."""
    module.__dict__[ATTRIBUTE] = record
    if isinstance(module, GraphModule):  # copies of a graph keep its meta alone, and its pickles all but that
        module.meta = {**getattr(module, "meta", {}), ATTRIBUTE: record}
