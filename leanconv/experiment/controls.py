"""Controls in a comparison: ordinary networks of the same cost, in the place of a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from leanconv.core.method import NamedSettings
from leanconv.search import controls
from leanconv.search.importance import Criterion
from leanconv.search.pruning import prune


@dataclass(frozen=True)
class Control(NamedSettings, ABC):
    """An ordinary network that is smaller than the dense one by plain means."""

    @abstractmethod
    def apply(self, model: nn.Module, input_size: tuple[int, int, int]) -> nn.Module:
        """The smaller network; `model` is not changed.

        Raises:
            SettingError: the budget cannot be met.
        """


@dataclass(frozen=True)
class Narrower(Control):
    """The dense network with fewer channels in each layer, initialised anew; see `leanconv.narrower`.

    Args:
        macs: the share of the dense network's MACs that may remain.
        align: each layer keeps a multiple of this number of channels.
    """

    macs: float = 0.5
    align: int = 8

    def apply(self, model: nn.Module, input_size: tuple[int, int, int]) -> nn.Module:
        return controls.narrower(model, self.macs, align=self.align, input_size=input_size)


@dataclass(frozen=True)
class Shallower(Control):
    """The dense network without some of its residual blocks; see `leanconv.shallower`.

    Args:
        macs: the share of the dense network's MACs that may remain.
    """

    macs: float = 0.5

    def apply(self, model: nn.Module, input_size: tuple[int, int, int]) -> nn.Module:
        return controls.shallower(model, self.macs, input_size=input_size)


@dataclass(frozen=True)
class Pruned(Control):
    """The dense network without its weakest channels, with its weights; see `leanconv.prune`.

    Args:
        macs: the share of the dense network's MACs that may remain.
        criterion: "magnitude" or "random".
        align: each layer keeps a multiple of this number of channels.
    """

    macs: float = 0.5
    criterion: Criterion = "magnitude"
    align: int = 8

    def apply(self, model: nn.Module, input_size: tuple[int, int, int]) -> nn.Module:
        return prune(model, self.macs, self.criterion, align=self.align, input_size=input_size)


CONTROLS: dict[str, type[Control]] = {kind.name: kind for kind in (Narrower, Shallower, Pruned)}
