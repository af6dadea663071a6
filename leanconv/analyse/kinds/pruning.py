"""Accuracy without the smallest blending weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from leanconv.analyse.declare import analysis

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from leanconv.analyse.analysis import Analysis
    from leanconv.data import ImageData


@analysis("accuracy without the smallest blending weights", of="one network")
def pruning(models: Mapping[str, nn.Module], data: ImageData) -> Analysis:
    """Top-1 on the test part over the share of blending weights that are set to zero."""
    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.blending import pruning_curve
    from leanconv.analyse.images import check_channels
    from leanconv.train.prepared import scores_of, task_on

    ((label, model),) = models.items()
    check_channels(model, data)
    task = task_on(model, data)
    curve = pruning_curve(model, lambda pruned: scores_of(pruned, data, task).top1_pct)
    cells = [
        [label, f"{p.fraction:.0%}", f"{p.blending:,}", f"{p.params:,}", f"{p.factor:.2f}", f"{p.top1_pct:.2f}"]
        for p in curve.points
    ]
    heads = ("Network", "Pruned", "Blending weights left", "Parameters left", "times fewer", "Top-1 %")
    return Analysis({label: curve.to_json()}, cast("Figure", curve.plot().figure), heads, cells)
