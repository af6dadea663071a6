"""The convolutions of a lean network as a table: what each became, or why it stayed dense."""

from __future__ import annotations

from typing import Any

from torch import nn

from leanconv.conversion.apply import plan_of
from leanconv.conversion.plan import Plan
from leanconv.core.method import OtherLayer
from leanconv.report.tables import integer, macs

HEADS = ("Layer", "Convolution", "Becomes", "Parameters", "after", "MACs", "after")


def layer_lines(lean: nn.Module) -> list[list[str]]:
    """The convolutions of a lean network under `HEADS`: what each became, or why it stayed dense; none for a dense one."""
    plan = plan_of(lean)
    return [] if plan is None else [layer_cells(layer) for layer in layers_of(lean, plan)]


def layers_of(lean: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """One entry a convolution. What a group shares is counted at the first of its convolutions, which owns it."""
    layers: list[dict[str, Any]] = []
    for number, group in enumerate(plan.groups):
        for site, own in zip(group.sites, group.macs(), strict=True):
            params = sum(p.numel() for p in lean.get_submodule(site.name).parameters())
            layers.append(_layer(site, group.method.label(), params, own, None) | {"group": number})
    for kept in plan.kept:
        layers.append(_layer(kept.site, "dense", kept.site.params(), kept.site.macs(), kept.reason) | {"group": None})
    order = {name: index for index, (name, _) in enumerate(lean.named_modules())}
    return sorted(layers, key=lambda layer: order[layer["name"]])


def _layer(site: Any, method: str, params: int, macs: int, reason: str | None) -> dict[str, Any]:
    known = not isinstance(site, OtherLayer)
    return {
        "name": site.name,
        "conv": site.layer,
        "stage": site.stage,
        "method": method,
        "kept_because": reason,
        "params_before": site.params(),
        "params_after": params,
        "macs_before": site.macs() if known else None,
        "macs_after": macs if known else None,
    }


def layer_cells(layer: dict[str, Any]) -> list[str]:
    """One convolution: what it is, what it becomes or why it stays, and its counts and times."""
    becomes = f"dense: {layer['kept_because']}" if layer["kept_because"] else layer["method"]
    counts = [integer(layer["params_before"]), integer(layer["params_after"])]
    more = [macs(layer["macs_before"]), macs(layer["macs_after"]), *_milliseconds(layer)]
    return [layer["name"] or "(root)", layer["conv"], becomes, *counts, *more]


def _milliseconds(layer: dict[str, Any]) -> list[str]:
    """The layer's times, where they were measured; one that gets slower is marked."""
    if layer.get("dense_ms") is None:
        return []
    return [f"{layer['dense_ms']:.3f}", f"{layer['lean_ms']:.3f}{' slower' if layer['slower'] else ''}"]
