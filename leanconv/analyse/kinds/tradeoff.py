"""Test error against parameters and MACs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from leanconv.analyse.declare import analysis

if TYPE_CHECKING:
    from pathlib import Path

    from leanconv.analyse.analysis import Analysis


@analysis("error against parameters and MACs, of a folder that compare wrote", of="one folder")
def tradeoff(folders: Mapping[str, Path]) -> Analysis:
    """The networks of one comparison."""
    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.tradeoff import read_tradeoff
    from leanconv.report.tables import integer, macs, spread

    ((_, path),) = folders.items()
    found = read_tradeoff(path)
    cells = [
        [p.name, integer(p.params), macs(p.macs), f"{p.factor:.2f}", spread(p.error_pct, p.error_pct_std), str(p.n)]
        for p in found.points
    ]
    heads = ("Network", "Parameters", "MACs", "times fewer", "Test error %", "n")
    return Analysis(found.to_json(), found.plot(), heads, cells)
