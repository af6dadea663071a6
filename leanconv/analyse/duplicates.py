"""Near-duplicates among the feature maps that a layer reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from leanconv.analyse.figure import panels
from leanconv.analyse.layers import conv_layers, outputs_of, use_of
from leanconv.core.errors import SettingError
from leanconv.core.modes import evaluating

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THRESHOLD = 0.9  # correlation from which two maps are near-duplicates


@dataclass(frozen=True)
class Redundancy:
    """The near-duplicates among the input maps of one layer.

    Args:
        layer: the name of the layer.
        correlation: (C, C), absolute values, over all positions of all images; 0 for a constant map.
        representatives: the maps that represent their near-duplicates; the map with the most near-duplicates first.
        of: for each map, its representative; -1 for a constant map.
        threshold: the absolute correlation from which two maps count as near-duplicates.
        maps: (C, H, W), the maps of the first image.
    """

    layer: str
    correlation: np.ndarray
    representatives: tuple[int, ...]
    of: tuple[int, ...]
    threshold: float
    maps: np.ndarray

    @property
    def share(self) -> float:
        """The share of the maps that are near-duplicates of a representative, or constant."""
        return 1 - len(self.representatives) / len(self.of)

    @property
    def ratio(self) -> float:
        """A ratio for `leanconv.Split` in this layer: the share of maps that are not redundant, rounded up to eighths."""
        return min(max(np.ceil(8 * (1 - self.share)) / 8, 1 / 8), 1.0)

    def to_json(self) -> dict[str, Any]:
        """Counts, shares and the representatives, as plain values."""
        return {
            "layer": self.layer, "channels": len(self.of), "redundant": round(self.share, 4), "ratio": float(self.ratio),
            "threshold": self.threshold, "representatives": list(self.representatives), "of": list(self.of),
        }  # fmt: skip

    def plot(self, most: int = 64) -> Figure:
        """Draw the first `most` maps as a grid; near-duplicates follow their representative."""
        order = [index for head in (*self.representatives, -1) for index in _members(self, head)][:most]
        columns = min(8, len(order))
        figure, grid = panels(-(-len(order) // columns), columns, 1.0, 1.1)
        for axes in grid.flat:
            axes.set_axis_off()
        for index, axes in zip(order, grid.flat, strict=False):
            axes.imshow(self.maps[index], cmap="viridis")
            heads = index in self.representatives
            axes.set_title(
                f"{index}" if heads else f"{index} = {self.of[index]}", fontsize=7, color="black" if heads else "0.5"
            )
        figure.suptitle(f"{self.layer}: {self.share:.0%} redundant at |r| >= {self.threshold}", fontsize=9)
        return figure


def _members(found: Redundancy, head: int) -> list[int]:
    own = [index for index, representative in enumerate(found.of) if representative == head]
    return sorted(own, key=lambda index: (index != head, -found.correlation[head][index] if head >= 0 else 0))


def redundancy(
    model: nn.Module, images: Tensor, layer: str, *, threshold: float = THRESHOLD, use: int = -1
) -> Redundancy:
    """Find the near-duplicates among the feature maps that a layer reads.

    Maps are compared by their absolute correlation over all positions of all images. Representatives are chosen greedily:
    first the map with the most near-duplicates. These near-duplicates are then removed, and the choice is repeated.

    Args:
        images: (N, C, H, W), as the network takes them.
        layer: the name of the layer.
        threshold: the absolute correlation of near-duplicates, above 0 and at most 1.
        use: the number of the call, for a layer that runs several times; -1 is the last.

    Raises:
        SettingError: there is no such layer or use, or the threshold is out of range.

    Source: "Split to Be Slim", Fig. 1 and section 1, which shows such maps without a measure; this measure is ours.
    """
    if not 0 < threshold <= 1:
        raise SettingError(f"threshold={threshold} must be above 0 and at most 1")
    with evaluating(model), torch.no_grad(), outputs_of(model, layer, inputs=True) as seen:
        model(images)
    maps = use_of(seen, layer, use).detach()
    rows = maps.transpose(0, 1).flatten(1).double()
    rows = rows - rows.mean(1, keepdim=True)
    length = rows.norm(dim=1, keepdim=True)
    alive = (length > 1e-9 * length.max().clamp(min=1e-30))[:, 0]
    unit = torch.where(alive[:, None], rows / length.clamp(min=1e-300), 0.0)
    correlation = (unit @ unit.T).abs().clamp(max=1).cpu().numpy()
    representatives, of = _greedy(correlation, alive.cpu().numpy(), threshold)
    return Redundancy(layer, correlation, representatives, of, threshold, maps[0].cpu().numpy())


def _greedy(correlation: np.ndarray, alive: np.ndarray, threshold: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    near = (correlation >= threshold - 1e-9) & alive[:, None] & alive[None]
    open_ = alive.copy()
    of = np.full(len(alive), -1)
    representatives = []
    while open_.any():
        counts = np.where(open_, (near & open_[None]).sum(1), -1)
        head = int(counts.argmax())
        members = near[head] & open_
        members[head] = True
        of[members] = head
        open_ &= ~members
        representatives.append(head)
    return tuple(representatives), tuple(int(v) for v in of)


def redundancies(model: nn.Module, images: Tensor, *, threshold: float = THRESHOLD) -> list[Redundancy]:
    """The `redundancy` of every convolution with a kernel larger than 1x1, except the first.

    Raises:
        SettingError: there is no such convolution.
    """
    wide = [name for name, conv in conv_layers(model).items() if getattr(conv, "kernel_size", (1, 1)) != (1, 1)]
    if len(wide) < 2:
        raise SettingError("after the first convolution, no kernel is larger than 1x1; name a layer")
    return [redundancy(model, images, name, threshold=threshold) for name in wide[1:]]


MAPS = ("Layer", "Maps it reads", "Representatives", "Near-duplicates", "Suggests")


def maps_row(found: Redundancy) -> list[str]:
    """The cells of a table row under the headings `MAPS`."""
    made = [str(len(found.of)), str(len(found.representatives)), f"{found.share:.0%}", f"split(ratio={found.ratio:g})"]
    return [found.layer, *made]
