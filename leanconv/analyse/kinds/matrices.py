"""The similarity of filters by the pixels that excite them, for each pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from leanconv.analyse.declare import analysis

if TYPE_CHECKING:
    from torch import nn

    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.images import Images
    from leanconv.analyse.similarity import Average


@analysis("the similarity of filters by the pixels that excite them, for each pair")
def matrices(
    models: Mapping[str, nn.Module],
    images: Mapping[str, Images],
    layers: tuple[str, ...] = (),
    seed: int = 0,
    average: Average = "patterns",
) -> Analysis:
    """A matrix of cosines for each layer."""
    from leanconv.analyse.figure import panels
    from leanconv.analyse.similarity import analysis_of, similarities

    found = similarities(models, {label: one.tensor for label, one in images.items()}, layers, seed, average)
    figure, grid = panels(len(found), max(map(len, found.values())), 3.0, 2.7)
    for (label, layers_found), row in zip(found.items(), grid, strict=True):
        for similarity, axes in zip(layers_found, row, strict=False):
            similarity.plot(axes)
        row[0].set_ylabel(label)
    return analysis_of(found, figure)
