"""What a layer may tell analyses about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


class Blending(ABC):
    """What has blending layers: 1x1 convolutions of its own between uses of a shared weight."""

    @abstractmethod
    def blending_weights(self) -> list[nn.Parameter]:
        """Their weights, each (O, I, 1, 1)."""


@dataclass(frozen=True)
class SharedComponents:
    """The filters that layers have in common, and what one of them makes of these.

    Args:
        owner: the module that holds the shared filters, the same one for all layers that use it.
        shared: all of them, (shared, I, kh, kw).
        unique: this layer's own filters, (unique, I, kh, kw); None where it has none.
        coefficients: of its outputs, (O, components, ...).
    """

    owner: nn.Module
    shared: Tensor
    unique: Tensor | None
    coefficients: Tensor
