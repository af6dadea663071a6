"""The similarity of the filters of a layer: by the pixels that excite them, and by their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from leanconv.analyse.figure import panel, panels
from leanconv.analyse.guided import Guided
from leanconv.analyse.layers import chosen, layer_of, outputs_of, use_of
from leanconv.core.errors import SettingError
from leanconv.core.modes import evaluating
from leanconv.core.operator import LinearOp
from leanconv.core.settings import check_choice
from leanconv.report.tables import NONE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from leanconv.analyse.analysis import Analysis


Average = Literal["patterns", "cosines"]
AVERAGES: tuple[Average, ...] = ("patterns", "cosines")
PIXELS_AT_ONCE = 2**19  # of the copies of an image, one for each filter, that pass the network together


@dataclass(frozen=True)
class FilterSimilarity:
    """Cosine similarities between filters of one layer.

    Args:
        layer: the name of the layer.
        filters: the output channels, in the order of the matrix.
        matrix: (k, k), cosines; NaN for a dead filter, which no image excites.
        images: the number of images in the mean; 0 for similarities of weights.
        average: what was averaged over the images, see `filter_similarity`; "" for similarities of weights.
    """

    layer: str
    filters: tuple[int, ...]
    matrix: np.ndarray
    images: int
    average: str = ""

    def pairs(self) -> np.ndarray:
        """The similarity of each pair of filters, once, without the pairs of dead filters."""
        values = self.matrix[np.triu_indices(len(self.matrix), 1)]
        return values[np.isfinite(values)]

    def histogram(self, bins: int = 40) -> tuple[np.ndarray, np.ndarray]:
        """The edges of the bins and the probability density of the pairs, over [-1, 1]."""
        density, edges = np.histogram(self.pairs(), bins, (-1.0, 1.0), density=True)
        return edges, density

    def to_json(self) -> dict[str, Any]:
        """The mean and quartiles of the pairs, and the matrix with None for NaN, as plain values."""
        pairs = self.pairs()
        q25, median, q75 = (float(v) for v in np.quantile(pairs, (0.25, 0.5, 0.75))) if len(pairs) else (None,) * 3
        matrix = [[None if np.isnan(v) else round(float(v), 5) for v in row] for row in self.matrix]
        return {
            "layer": self.layer, "images": self.images, "average": self.average,
            "mean": float(pairs.mean()) if len(pairs) else None, "q25": q25, "median": median, "q75": q75,
            "filters": list(self.filters), "matrix": matrix,
        }  # fmt: skip

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw the matrix of cosines."""
        axes = axes or panel(4.0, 3.6)
        drawn = axes.imshow(self.matrix, vmin=-1, vmax=1, cmap="RdYlBu_r", interpolation="nearest")
        axes.set_title(self.layer, fontsize=9)
        axes.set_xlabel("filter")
        axes.figure.colorbar(drawn, ax=axes, fraction=0.046)
        return axes


def filter_similarity(
    model: nn.Module, images: Tensor, layer: str, *, filters: int = 64, seed: int = 0, use: int = -1,
    average: Average = "patterns",
) -> FilterSimilarity:  # fmt: skip
    """Cosine similarity between filters by their guided back-propagation patterns on images.

    The pattern p_f(x) of a filter f on an image x is the gradient of the sum of its map with respect to the pixels, by guided
    back-propagation. Two filters are similar if the same pixels excite them.

        "patterns":  cos(mean over x of p_f(x), mean over x of p_g(x))     as the caption of Fig. 1 says
        "cosines":   mean over x of cos(p_f(x), p_g(x))

    The first is higher where the images have something in common, such as a centred object; the second compares image by image.

    Args:
        images: (N, C, H, W), as the network takes them.
        layer: a name of `leanconv.analyse.conv_layers`, or any layer that returns feature maps, such as a block.
        filters: the number of filters; if the layer has more, they are drawn at random.
        seed: the seed of the draw.
        use: the number of the call, for a layer that runs several times; -1 is the last.
        average: "patterns" or "cosines".

    Raises:
        SettingError: there is no such layer or use, or an activation without a rule of guided back-propagation.

    Source: Wang & Yu 2021, Figs. 1 and 9, "averaged on a set of images".
    """
    check_choice("average", average, AVERAGES)
    with evaluating(model):
        with torch.no_grad(), outputs_of(model, layer) as seen:
            model(images[:1])
        channels = use_of(seen, layer, use).shape[1]
        order = torch.randperm(channels, generator=torch.Generator().manual_seed(seed))
        chosen = order[: min(filters, channels)].sort().values
        patterns = (_patterns(model, image[None], layer, chosen, use) for image in images)
        if average == "patterns":
            mean = _cosines(sum_of(patterns))
        else:
            cosines = torch.stack([_cosines(rows) for rows in patterns]).double()
            count = (~cosines.isnan()).sum(0)
            mean = torch.where(count > 0, cosines.nansum(0) / count, float("nan"))
    return FilterSimilarity(layer, tuple(chosen.tolist()), mean.cpu().numpy(), len(images), average)


def sum_of(rows: Iterable[Tensor]) -> Tensor:
    """The sum of tensors of one shape, in float64, one after another."""
    return reduce(lambda total, one: total + one.cpu().double(), rows, torch.zeros((), dtype=torch.float64))


def _patterns(model: nn.Module, image: Tensor, layer: str, filters: Tensor, use: int) -> Tensor:
    """The patterns of the filters, (k, pixels): with a copy of the image for each filter, one backward pass is enough.

    The filters go through the network in chunks: 64 copies of an image of 224 pixels would need gigabytes.
    """
    chunks = filters.split(max(1, PIXELS_AT_ONCE // image[0, 0].numel()))
    return torch.cat([_patterns_of(model, image, layer, chunk, use) for chunk in chunks])


def _patterns_of(model: nn.Module, image: Tensor, layer: str, filters: Tensor, use: int) -> Tensor:
    copies = image.repeat(len(filters), 1, 1, 1).requires_grad_()
    with torch.enable_grad(), outputs_of(model, layer) as seen, Guided():
        model(copies)
    maps = use_of(seen, layer, use)
    target = maps[torch.arange(len(filters)), filters].sum()
    return torch.autograd.grad(target, copies)[0].flatten(1)


def _cosines(rows: Tensor) -> Tensor:
    length = rows.norm(dim=1, keepdim=True)
    unit = torch.where(length > 0, rows / length, float("nan"))
    return (unit @ unit.T).clamp(-1, 1)


def dense_weight(model: nn.Module, layer: str) -> Tensor:
    """The weight of the equal dense convolution of a layer: (O, I / groups, kh, kw).

    Raises:
        SettingError: the layer does not equal a single dense convolution.
    """
    module = layer_of(model, layer)
    if isinstance(module, LinearOp):
        with evaluating(module), torch.no_grad():
            return module.weight_dense().detach()
    if isinstance(module, nn.Conv2d):
        return module.weight.detach()
    raise SettingError(f"layer {layer!r} is a {type(module).__name__}, which has no single convolution's weight")


def weight_similarity(model: nn.Module, layer: str) -> FilterSimilarity:
    """Cosine similarity between the weights of a layer's filters. This is fast, and does not depend on images.

    Raises:
        SettingError: there is no such layer, or it does not equal a single dense convolution.

    >>> from leanconv import create_model
    >>> weight_similarity(create_model("resnet8"), "conv1").matrix.shape
    (16, 16)
    """
    rows = dense_weight(model, layer).flatten(1).double()
    return FilterSimilarity(layer, tuple(range(len(rows))), _cosines(rows).cpu().numpy(), 0)


def plot_histograms(networks: Mapping[str, Sequence[FilterSimilarity]]) -> Figure:
    """Draw a histogram of the pairs for each layer, with the networks overlaid.

    Layers are matched by their order; the title names the layer of each network where they differ.
    """
    columns = max(len(found) for found in networks.values())
    figure, grid = panels(1, columns, 3.0, 2.6)
    for (label, found), style in zip(networks.items(), _styles(), strict=False):
        for similarity, axes in zip(found, grid[0], strict=False):
            edges, density = similarity.histogram()
            axes.stairs(density, edges, label=label, linewidth=1.5, linestyle=style)
            axes.set_xlabel("cosine similarity")
    for place, axes in enumerate(grid[0]):
        layers = {label: found[place].layer for label, found in networks.items() if place < len(found)}
        one = len({*layers.values()}) == 1
        said = list(layers.values())[:1] if one else [f"{label}: {layer}" for label, layer in layers.items()]
        axes.set_title("\n".join(said), fontsize=9 if one else 7)
    grid[0][0].set_ylabel("density")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _styles() -> list[str]:
    return ["-", "--", ":", "-."] * 4


def similarities(
    models: Mapping[str, nn.Module], images: Mapping[str, Tensor], layers: Sequence[str], seed: int, average: Average
) -> dict[str, list[FilterSimilarity]]:
    """The similarities in some layers of each network: those named, or four blocks spread over the depth."""
    return {
        label: [
            filter_similarity(model, images[label], name, seed=seed, average=average)
            for name in chosen(model, layers, 4, blocks=True)
        ]
        for label, model in models.items()
    }


def analysis_of(found: Mapping[str, Sequence[FilterSimilarity]], figure: Figure) -> Analysis:
    """The result of an analysis: the similarities in the layers of each network, with this figure."""
    from leanconv.analyse.analysis import Analysis

    values = {label: [similarity.to_json() for similarity in layers] for label, layers in found.items()}
    cells = [
        [label, v["layer"], str(len(v["filters"])), *(_number(v[key]) for key in ("mean", "q25", "median", "q75"))]
        for label, layers in values.items()
        for v in layers
    ]
    return Analysis(values, figure, ("Network", "Layer", "Filters", "mean cosine", "q25", "median", "q75"), cells)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
