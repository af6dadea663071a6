"""The similarity of the components of shared bases, and of their coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from leanconv.analyse.declare import analysis

if TYPE_CHECKING:
    from torch import nn

    from leanconv.analyse.analysis import Analysis


@analysis("the similarity of the components and coefficients of shared bases")
def bases(models: Mapping[str, nn.Module]) -> Analysis:
    """Draw matrices of absolute cosines, and list their means."""
    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.bases import basis_similarity, plot_bases

    found = {label: basis_similarity(model) for label, model in models.items()}
    values = {label: [group.to_json() for group in groups] for label, groups in found.items()}
    cells = [
        [label, str(i + 1), str(len(v["layers"])), str(v["shared"]), str(v["components"])]
        + [f"{v[f'mean_{what}']:.4f}" for what in ("shared", "components", "coefficients")]
        for label, groups in values.items()
        for i, v in enumerate(groups)
    ]
    heads = ("Network", "Group", "Layers", "Shared", "Components", "mean |cos|, shared", "all", "coefficients")
    return Analysis(values, plot_bases(found), heads, cells)
