"""The blending layers of ShardNet: their largest and smallest weights, and the accuracy without the smallest ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from leanconv.analyse.figure import panel, panels
from leanconv.core.copying import copied
from leanconv.core.errors import SettingError
from leanconv.core.traits import Blending
from leanconv.core.wrappers import unwrapped
from leanconv.files.sparse import set_sparse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRACTIONS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


def blending_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of the blending layers by name, each (O, I, 1, 1).

    These are the paper's linear layers: the 1x1 convolutions between scales and, with bottlenecks, the 1x1 behind the stem.

    Raises:
        SettingError: the network has no blending layer.
    """
    blends = {id(w) for module in model.modules() if isinstance(module, Blending) for w in module.blending_weights()}
    found = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in blends}
    if not found:
        raise SettingError(
            f"{type(model).__name__} has no blending layer; they are in shard_vgg16, shard_resnet... and depth_shared(blend=True)"
        )
    return found


@dataclass(frozen=True)
class BlendingExtremes:
    """The smallest and the largest weights of each output channel of one blending layer, by absolute value.

    Args:
        layer: the name of its weight.
        weights: (O, I), absolute values.
        lowest, highest: (O, k), the input channels of the k smallest and the k largest weights.
    """

    layer: str
    weights: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

    def unused(self) -> np.ndarray:
        """For each input channel, the share of output channels that have it among their lowest; 1 means an unused input."""
        counts = np.bincount(self.lowest.flatten(), minlength=self.weights.shape[1])
        return counts / len(self.weights)

    def to_json(self) -> dict[str, Any]:
        """The shares of `unused`, and the channels, as plain values."""
        return {
            "layer": self.layer, "unused": np.round(self.unused(), 4).tolist(), "lowest": self.lowest.tolist(),
            "highest": self.highest.tolist(),
        }  # fmt: skip

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw input channels along x and output channels along y: the lowest weights blue, the highest red."""
        axes = axes or panel(3.2, 3.4)
        picture = np.ones((*self.weights.shape, 3))
        rows = np.arange(len(self.weights))[:, None]
        picture[rows, self.lowest] = (0.12, 0.47, 0.71)
        picture[rows, self.highest] = (0.84, 0.15, 0.16)
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.set_title(self.layer, fontsize=8)
        axes.set_xlabel("input channel", fontsize=8)
        return axes


def blending_extremes(model: nn.Module, count: int = 32) -> list[BlendingExtremes]:
    """For every blending layer, the `count` lowest and highest weights of each output channel, by absolute value.

    In a narrow layer, at most an eighth of the input channels is taken, as 32 is an eighth of 256. With more, all inputs
    would be marked.

    Raises:
        SettingError: the network has no blending layer.

    Source: ShardNet, section 5.1, Figs. 4, 7 and 8.
    """
    found = []
    for name, parameter in blending_weights(model).items():
        weights = parameter.detach().flatten(1).abs().cpu()
        order = weights.argsort(1)
        k = min(count, weights.shape[1] // 8) or 1
        found.append(BlendingExtremes(name, weights.numpy(), order[:, :k].numpy(), order[:, -k:].flip(1).numpy()))
    return found


def plot_extremes(found: Sequence[BlendingExtremes]) -> Figure:
    """Draw all blending layers, in the order of the network."""
    figure, grid = panels(1, len(found), 2.6, 2.8)
    for extremes, axes in zip(found, grid[0], strict=True):
        extremes.plot(axes)
    grid[0][0].set_ylabel("output channel", fontsize=8)
    figure.suptitle("blue: lowest, red: highest weights of each output channel, by absolute value", fontsize=9)
    return figure


def prune_blending(model: nn.Module, fraction: float) -> nn.Module:
    """A copy of `model` with the smallest blending weights set to zero: `fraction` of those of all layers together.

    The copy is not retrained. `leanconv.save` stores its blending weights without the zeros.

    Raises:
        SettingError: the fraction is outside [0, 1], or the network has no blending layer.

    Source: ShardNet, section 5.2, after Han et al. 2015.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
        raise SettingError(f"fraction={fraction!r} must be a number from 0 to 1")
    pruned = copied(unwrapped(model))
    weights = blending_weights(pruned)
    sizes = torch.cat([parameter.detach().abs().flatten().cpu() for parameter in weights.values()])
    count = round(fraction * len(sizes))
    if count == 0:
        return pruned
    smallest = torch.zeros(len(sizes), dtype=torch.bool)
    smallest[sizes.argsort()[:count]] = True
    with torch.no_grad():
        for parameter, zeros in zip(
            weights.values(), smallest.split([p.numel() for p in weights.values()]), strict=True
        ):
            parameter[zeros.reshape(parameter.shape).to(parameter.device)] = 0
    set_sparse(pruned, tuple(weights))
    return pruned


@dataclass(frozen=True)
class PruningPoint:
    """The accuracy of a pruned network at one fraction.

    Args:
        fraction: the pruned share of the blending weights.
        blending: the number of remaining blending weights.
        params: the number of all remaining parameters.
        factor: parameters before, divided by the remaining parameters.
        top1_pct: accuracy, in percent.
    """

    fraction: float
    blending: int
    params: int
    factor: float
    top1_pct: float


@dataclass(frozen=True)
class PruningCurve:
    """Accuracy against the pruned fraction of the blending weights."""

    points: tuple[PruningPoint, ...]

    def prunable(self, drop: float = 0.5) -> float:
        """The largest fraction up to which accuracy stays within `drop` percentage points of the whole network's."""
        first, last = self.points[0].top1_pct, 0.0
        for point in self.points:
            if point.top1_pct < first - drop:
                break
            last = point.fraction
        return last

    def to_json(self) -> dict[str, Any]:
        """The points and the prunable fraction, as plain values."""
        return {"points": [asdict(point) for point in self.points], "prunable": self.prunable()}

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw the accuracy, with the compression factor at some points."""
        axes = axes or panel(4.2, 2.8)
        fractions = [point.fraction for point in self.points]
        axes.plot(fractions, [point.top1_pct for point in self.points], marker="o", markersize=3)
        for point in self.points[:: max(1, len(self.points) // 6)]:
            axes.annotate(
                f"{point.factor:.2f}x",
                (point.fraction, point.top1_pct),
                fontsize=7,
                xytext=(2, 4),
                textcoords="offset points",
            )
        axes.set(xlabel="fraction of blending weights at zero", ylabel="top-1 %")
        return axes


def pruning_curve(
    model: nn.Module, score: Callable[[nn.Module], float], fractions: Sequence[float] = FRACTIONS
) -> PruningCurve:
    """The accuracy of `model` with growing fractions of its blending weights set to zero.

    Args:
        score: a function that returns the accuracy of a network in percent. Use validation images to choose a fraction.
        fractions: rising values from 0 to 1; the first is 0.

    Raises:
        SettingError: the fractions do not rise from 0, or the network has no blending layer.

    Source: ShardNet, section 5.2, Fig. 5.
    """
    fractions = list(fractions)
    if not fractions or fractions[0] != 0 or fractions != sorted(set(fractions)):
        raise SettingError(f"fractions={fractions} must rise from 0")
    total = sum(p.numel() for p in model.parameters())
    points = []
    for fraction in fractions:
        pruned = prune_blending(model, fraction)
        kept = sum(int((weight != 0).sum()) for weight in blending_weights(pruned).values())
        left = total - sum(w.numel() for w in blending_weights(pruned).values()) + kept
        points.append(PruningPoint(fraction, kept, left, total / left, score(pruned)))
    return PruningCurve(tuple(points))
