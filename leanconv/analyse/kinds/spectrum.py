"""Singular values of stacked filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from leanconv.analyse.declare import analysis

if TYPE_CHECKING:
    from torch import nn

    from leanconv.analyse.analysis import Analysis


@analysis("singular values of stacked filters", of="one network")
def spectrum(models: Mapping[str, nn.Module], layers: tuple[str, ...] = ()) -> Analysis:
    """The spectrum of each layer, or of each group of layers that share."""
    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.figure import panels
    from leanconv.analyse.layers import chosen
    from leanconv.analyse.singular import spectrum as spectrum_of
    from leanconv.conversion.apply import plan_of

    ((label, model),) = models.items()
    made = plan_of(model)
    groups: list[Any] = list(layers)
    if not groups and made is not None:
        groups = [[site.name for site in group.sites] for group in made.groups if len(group.sites) > 1]
    found = [spectrum_of(model, group) for group in groups or chosen(model, (), 8)]
    columns = min(4, len(found))
    figure, grid = panels(-(-len(found) // columns), columns, 3.2, 2.5)
    for one, axes in zip(found, grid.flat, strict=False):
        one.plot(axes)
    values = [one.to_json() for one in found]
    cells = [
        [v["label"], f"{v['shape'][0]} x {v['shape'][1]}"] + [str(v[f"rank_{e}"]) for e in (90, 95, 99)] for v in values
    ]
    return Analysis({label: values}, figure, ("Layers", "Filters x inputs", "rank for 90 %", "95 %", "99 %"), cells)
