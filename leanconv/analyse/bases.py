"""Shared bases: how similar their components are, and how similar the coefficients of the layers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from leanconv.analyse.figure import panels
from leanconv.core.errors import SettingError
from leanconv.core.operator import ConvOp
from leanconv.core.traits import SharedComponents

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class BasisSimilarity:
    """The similarities in one group of layers that share components.

    Args:
        layers: the names of the layers, in the order of the network.
        shared: the number of shared components. They come first; the unique components of each layer follow.
        components: (components, components), absolute cosines.
        coefficients: (filters, filters), absolute cosines of the coefficients; the filters of all layers, in their order.
    """

    layers: tuple[str, ...]
    shared: int
    components: np.ndarray
    coefficients: np.ndarray

    def mean(self, what: str) -> float:
        """The mean over all pairs of "shared" components, of all "components", or of "coefficients"."""
        matrix = {
            "shared": self.components[: self.shared, : self.shared],
            "components": self.components,
            "coefficients": self.coefficients,
        }[what]
        values = matrix[np.triu_indices(len(matrix), 1)]
        return float(values.mean()) if len(values) else 0.0

    def to_json(self) -> dict[str, Any]:
        """The layers and the means, as plain values."""
        means = {f"mean_{what}": self.mean(what) for what in ("shared", "components", "coefficients")}
        return {"layers": list(self.layers), "shared": self.shared, "components": len(self.components), **means}


def basis_similarity(model: nn.Module) -> list[BasisSimilarity]:
    """Absolute cosine similarities of components and coefficients of each group, in the order of the network.

    Raises:
        SettingError: no layer has a shared basis.

    Source: "Learning Deeply Shared Filter Bases", section 4.1.3, Fig. 3.
    """
    groups: dict[int, list[tuple[str, SharedComponents]]] = {}
    for name, module in model.named_modules():
        parts = module.shared_components() if isinstance(module, ConvOp) else None
        if parts is not None:
            groups.setdefault(id(parts.owner), []).append((name, parts))
    if not groups:
        raise SettingError(
            f"{type(model).__name__} has no shared basis; take a network converted with shared_basis(...)"
        )
    found = []
    for users in groups.values():
        shared = users[0][1].shared
        own = [parts.unique.flatten(1) for _, parts in users if parts.unique is not None]
        components = torch.cat([shared.flatten(1), *own])
        coefficients = torch.cat([parts.coefficients.flatten(1) for _, parts in users])
        names = tuple(name for name, _ in users)
        found.append(BasisSimilarity(names, len(shared), _cosines(components), _cosines(coefficients)))
    return found


def _cosines(rows: Tensor) -> np.ndarray:
    unit = nn.functional.normalize(rows.detach().double(), dim=1)
    return (unit @ unit.T).abs().clamp(max=1).cpu().numpy()


def plot_bases(networks: Mapping[str, Sequence[BasisSimilarity]]) -> Figure:
    """A column for each group of each network: the components above, the coefficients below."""
    columns = [(label, index, group) for label, found in networks.items() for index, group in enumerate(found)]
    figure, grid = panels(2, len(columns), 2.5, 2.6)
    for (label, index, group), (above, below) in zip(columns, grid.T, strict=True):
        for axes, matrix, what in (
            (above, group.components, "components"),
            (below, group.coefficients, "coefficients"),
        ):
            drawn = axes.imshow(matrix, vmin=0, vmax=1, cmap="magma", interpolation="nearest")
            axes.set_title(f"{what}, mean {group.mean(what):.3f}", fontsize=8)
        below.set_xlabel(f"{label}\ngroup {index + 1}", fontsize=8)
    figure.colorbar(drawn, ax=grid, fraction=0.02)
    return figure
