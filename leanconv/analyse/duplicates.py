"""How many of the maps that a layer reads say the same."""

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
    """The maps that one layer reads.

    Args:
        layer: its name.
        correlation: (C, C), absolute values, over all positions of all images; 0 for a constant map.
        representatives: the maps that stand for the others, the one that stands for most first.
        of: for each map its representative.
        threshold: what counts as a near-duplicate.
        maps: (C, H, W) on the first image.
    """

    layer: str
    correlation: np.ndarray
    representatives: tuple[int, ...]
    of: tuple[int, ...]
    threshold: float
    maps: np.ndarray

    @property
    def share(self) -> float:
        """The part of the maps that are near-duplicates of a representative, or constant."""
        return 1 - len(self.representatives) / len(self.of)

    @property
    def ratio(self) -> float:
        """What `leanconv.Split` would want here: the part of the maps that is not redundant, rounded up to eighths."""
        return min(max(np.ceil(8 * (1 - self.share)) / 8, 1 / 8), 1.0)

    def to_json(self) -> dict[str, Any]:
        """Counts, shares and the representatives."""
        return {
            "layer": self.layer, "channels": len(self.of), "redundant": round(self.share, 4), "ratio": float(self.ratio),
            "threshold": self.threshold, "representatives": list(self.representatives), "of": list(self.of),
        }  # fmt: skip

    def plot(self, most: int = 64) -> Figure:
        """The maps as a grid, each representative followed by its near-duplicates."""
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
    """Which of the maps that a layer reads are near-duplicates of another one.

    Maps are compared by their absolute correlation over all positions of all images. Representatives are chosen
    greedily: the map with most near-duplicates first, which are then taken care of.

    Args:
        images: (N, C, H, W), as the network takes them.
        threshold: from 0 to 1.

    Raises:
        SettingError: no such layer or use, or a threshold out of range.

    Source: "Split to Be Slim", Fig. 1 and section 1, which shows such maps and gives no measure; this one is ours.
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
    """`redundancy` for every convolution that has a kernel to save: those over 1x1, behind the first one."""
    wide = [name for name, conv in conv_layers(model).items() if getattr(conv, "kernel_size", (1, 1)) != (1, 1)]
    if len(wide) < 2:
        raise SettingError("no convolution over 1x1 stands behind the first one; name a layer")
    return [redundancy(model, images, name, threshold=threshold) for name in wide[1:]]


MAPS = ("Layer", "Maps it reads", "Representatives", "Near-duplicates", "Suggests")


def maps_row(found: Redundancy) -> list[str]:
    """A line of a table under `MAPS`."""
    made = [str(len(found.of)), str(len(found.representatives)), f"{found.share:.0%}", f"split(ratio={found.ratio:g})"]
    return [found.layer, *made]
