"""The most and the least used inputs of the blending layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from leanconv.analyse.declare import analysis

if TYPE_CHECKING:
    from torch import nn

    from leanconv.analyse.analysis import Analysis


@analysis("the lowest and highest weights of blending layers", of="one network")
def blending(models: Mapping[str, nn.Module]) -> Analysis:
    """Show which inputs of a blending layer are hardly used by its outputs."""
    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.blending import blending_extremes, plot_extremes

    ((label, model),) = models.items()
    found = blending_extremes(model)
    cells = [
        [e.layer, str(len(e.weights)), f"{(e.unused() > 0.5).mean():.0%}", f"{e.unused().max():.2f}"] for e in found
    ]
    heads = ("Layer", "Channels", "inputs that most outputs hardly use", "least used: share of outputs")
    return Analysis({label: [e.to_json() for e in found]}, plot_extremes(found), heads, cells)
