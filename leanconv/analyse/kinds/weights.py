"""The similarity of the weights of a layer's filters, as histograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from leanconv.analyse.declare import analysis

if TYPE_CHECKING:
    from torch import nn

    from leanconv.analyse.analysis import Analysis


@analysis("the similarity of the weights of filters")
def weights(models: Mapping[str, nn.Module], layers: tuple[str, ...] = ()) -> Analysis:
    """Histograms of the cosines between the filters' weights."""
    from leanconv.analyse.layers import chosen
    from leanconv.analyse.similarity import analysis_of, plot_histograms, weight_similarity

    found = {
        label: [weight_similarity(model, name) for name in chosen(model, layers, 4)] for label, model in models.items()
    }
    return analysis_of(found, plot_histograms(found))
