"""Interfaces through which a layer gives analyses its filters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


class Blending(ABC):
    """A module with blending layers: its own 1x1 convolutions between uses of a shared weight."""

    @abstractmethod
    def blending_weights(self) -> list[nn.Parameter]:
        """The weights of the blending layers, each (O, I, 1, 1)."""


@dataclass(frozen=True)
class SharedComponents:
    """The filters that several layers share, with the own filters and the coefficients of one layer.

    Args:
        owner: the module that holds the shared filters; the same object for all layers that use it.
        shared: all shared filters, (shared, I, kh, kw).
        unique: this layer's own filters, (unique, I, kh, kw); None without such filters.
        coefficients: the coefficients of this layer's outputs, (O, components, ...).
    """

    owner: nn.Module
    shared: Tensor
    unique: Tensor | None
    coefficients: Tensor
