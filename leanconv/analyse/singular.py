"""How low the rank of a layer's filters, or of a group's together, could go."""

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
    """Singular values of filters as rows.

    Args:
        label: the layer, or the layers of a group.
        values: from the largest to the smallest.
        shape: (filters, inputs to a filter) of the matrix.
    """

    label: str
    values: np.ndarray
    shape: tuple[int, int]

    def rank(self, energy: float = 0.95) -> int:
        """The least rank that keeps this share of the squared Frobenius norm."""
        if not 0 < energy <= 1:
            raise SettingError(f"energy={energy} must be above 0 and at most 1")
        share = np.cumsum(self.values**2) / max(float((self.values**2).sum()), 1e-300)
        return min(int(np.searchsorted(share, energy - 1e-12)) + 1, len(self.values))

    def to_json(self) -> dict[str, Any]:
        """Values, and the ranks that keep 90, 95 and 99 %."""
        ranks = {f"rank_{round(100 * e)}": self.rank(e) for e in (0.9, 0.95, 0.99)}
        return {
            "label": self.label,
            "shape": list(self.shape),
            **ranks,
            "values": [float(f"{v:.5g}") for v in self.values],
        }

    def plot(self, axes: Axes | None = None) -> Axes:
        """Values against their number, with the rank that keeps 95 %."""
        axes = axes or panel(4.0, 2.8)
        axes.plot(np.arange(1, len(self.values) + 1), self.values / max(self.values[0], 1e-300))
        rank = self.rank(0.95)
        axes.axvline(rank, color="0.5", linestyle="--", linewidth=1)
        axes.annotate(f"95 %: {rank}", (rank, 0.9), fontsize=8)
        axes.set(title=self.label, xlabel="number", ylabel="singular value / largest", ylim=(0, 1.05))
        return axes


def spectrum(model: nn.Module, layers: str | Sequence[str]) -> Spectrum:
    """Singular values of one layer's filters, or of several layers' stacked.

    Stacked filters of rank r are what `SharedBasis` with r shared components and none of their own can hold exactly.

    Raises:
        SettingError: no such layer, no convolution's weight, or layers whose filters differ in shape.
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
