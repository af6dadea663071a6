"""The gradients of shared weights during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from leanconv.analyse.declare import analysis

if TYPE_CHECKING:
    from pathlib import Path

    from leanconv.analyse.analysis import Analysis


@analysis("gradients of shared weights, of runs with --record-gradients", of="folders")
def gradients(folders: Mapping[str, Path]) -> Analysis:
    """The largest and the mean absolute gradient of each shared weight, over the steps."""
    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.gradients import plot_gradients, read_gradients
    from leanconv.report.tables import NONE

    runs = {label: read_gradients(folder) for label, folder in folders.items()}
    found = {label: flow.to_json() for label, flow in runs.items()}
    cells = [
        [label, tensor["name"], *(NONE if tensor[key] is None else f"{tensor[key]:.3g}" for key in ("max", "mean"))]
        for label, flow in found.items()
        for tensor in flow["tensors"]
    ]
    return Analysis(found, plot_gradients(runs), ("Run", "Shared weight", "max |gradient|", "mean |gradient|"), cells)
