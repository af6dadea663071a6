"""The similarity of filters by the pixels that excite them, as histograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from leanconv.analyse.declare import analysis

if TYPE_CHECKING:
    from torch import nn

    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.images import Images
    from leanconv.analyse.similarity import Average


@analysis("the similarity of filters by the pixels that excite them, as histograms")
def filters(
    models: Mapping[str, nn.Module],
    images: Mapping[str, Images],
    layers: tuple[str, ...] = (),
    seed: int = 0,
    average: Average = "patterns",
) -> Analysis:
    """Histograms of the cosines between the filters' guided gradients."""
    from leanconv.analyse.similarity import analysis_of, plot_histograms, similarities

    found = similarities(models, {label: one.tensor for label, one in images.items()}, layers, seed, average)
    return analysis_of(found, plot_histograms(found))
