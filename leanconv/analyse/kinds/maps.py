"""Near-duplicates among the maps that each layer reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from leanconv.analyse.declare import analysis

if TYPE_CHECKING:
    from torch import nn

    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.images import Images


@analysis("near-duplicates among the maps that a layer reads", of="one network")
def maps(models: Mapping[str, nn.Module], images: Mapping[str, Images], layers: tuple[str, ...] = ()) -> Analysis:
    """The maps of the layer with the most near-duplicates, and the counts of each layer."""
    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.duplicates import MAPS, maps_row, redundancies, redundancy

    ((label, model),) = models.items()
    seen = images[label].tensor
    found = [redundancy(model, seen, name) for name in layers] or redundancies(model, seen)
    shown = found[0] if layers else max(found, key=lambda one: one.share)
    return Analysis({label: [one.to_json() for one in found]}, shown.plot(), MAPS, [maps_row(one) for one in found])
