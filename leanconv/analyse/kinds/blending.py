"""The blending layers with the most and the least used inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from leanconv.analyse.declare import analysis

if TYPE_CHECKING:
    from torch import nn

    from leanconv.analyse.analysis import Analysis


@analysis("the extremes among blending layers", of="one network")
def blending(models: Mapping[str, nn.Module]) -> Analysis:
    """Which inputs of a blending layer its outputs hardly use."""
    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.blending import blending_extremes, plot_extremes

    ((label, model),) = models.items()
    found = blending_extremes(model)
    cells = [
        [e.layer, str(len(e.weights)), f"{(e.unused() > 0.5).mean():.0%}", f"{e.unused().max():.2f}"] for e in found
    ]
    heads = ("Layer", "Channels", "inputs that most outputs hardly use", "least used: share of outputs")
    return Analysis({label: [e.to_json() for e in found]}, plot_extremes(found), heads, cells)
