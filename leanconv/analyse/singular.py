"""Singular values: the rank of the filters of one layer, or of a group of layers together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from leanconv.analyse.figure import panel
from leanconv.analyse.similarity import dense_weight
from leanconv.core.errors import SettingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Spectrum:
    """The singular values of the matrix whose rows are filters.

    Args:
        label: the name of the layer, or of the group of layers.
        values: the singular values, from the largest to the smallest.
        shape: the shape of the matrix: (filters, inputs of a filter).
    """

    label: str
    values: np.ndarray
    shape: tuple[int, int]

    def rank(self, energy: float = 0.95) -> int:
        """The smallest rank that keeps the share `energy` of the squared Frobenius norm."""
        if not 0 < energy <= 1:
            raise SettingError(f"energy={energy} must be above 0 and at most 1")
        share = np.cumsum(self.values**2) / max(float((self.values**2).sum()), 1e-300)
        return min(int(np.searchsorted(share, energy - 1e-12)) + 1, len(self.values))

    def to_json(self) -> dict[str, Any]:
        """The values, and the ranks that keep 90, 95 and 99 %, as plain values."""
        ranks = {f"rank_{round(100 * e)}": self.rank(e) for e in (0.9, 0.95, 0.99)}
        return {
            "label": self.label,
            "shape": list(self.shape),
            **ranks,
            "values": [float(f"{v:.5g}") for v in self.values],
        }

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw the values against their number, with the rank that keeps 95 %."""
        axes = axes or panel(4.0, 2.8)
        axes.plot(np.arange(1, len(self.values) + 1), self.values / max(self.values[0], 1e-300))
        rank = self.rank(0.95)
        axes.axvline(rank, color="0.5", linestyle="--", linewidth=1)
        axes.annotate(f"95 %: {rank}", (rank, 0.9), fontsize=8)
        axes.set(title=self.label, xlabel="number", ylabel="singular value / largest", ylim=(0, 1.05))
        return axes


def spectrum(model: nn.Module, layers: str | Sequence[str]) -> Spectrum:
    """The singular values of one layer's filters, or of the stacked filters of several layers.

    `SharedBasis` with r shared and no unique components represents stacked filters of rank r exactly.

    Args:
        model: a dense or a lean network.
        layers: the name of a layer, or the names of several.

    Raises:
        SettingError: there is no such layer, a layer has no dense weight, or the filters of the layers differ in shape.

    >>> from leanconv import create_model
    >>> spectrum(create_model("resnet8"), "conv1").shape
    (16, 27)
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    weights = [dense_weight(model, name).double() for name in names]
    shapes = {tuple(weight.shape[1:]) for weight in weights}
    if len(shapes) != 1:
        raise SettingError(f"the filters of {', '.join(names)} differ in shape: {', '.join(map(str, sorted(shapes)))}")
    rows = torch.cat([weight.flatten(1) for weight in weights])
    values = torch.linalg.svdvals(rows)
    label = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return Spectrum(label, values.cpu().numpy(), (rows.shape[0], rows.shape[1]))
