"""Measure each layer dense and lean on this device, before any training, and keep the slower lean layers dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leanconv.conversion.plan import Plan
from leanconv.core.affine import Affine, conv_of
from leanconv.core.errors import SettingError
from leanconv.core.linear import LeanLinear
from leanconv.core.method import Site, Skipped
from leanconv.inference.forms import forms_of
from leanconv.timing import layers
from leanconv.timing.latency import Progress
from leanconv.timing.layers import LayerTime, LeanLayer
from leanconv.timing.modules import Builds
from leanconv.timing.store import TimeStore, default_store

DENSE = "dense layer"


def layer_times(
    plan: Plan,
    *,
    batch: int = 1,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
    runtime: str = "eager",
    channels_last: bool = True,
    cache: Path | Literal["default"] | None = "default",
    progress: Progress | None = None,
) -> list[LayerTime]:
    """Measure every layer that `plan` converts: the dense layer, and the lean layer in each inference form.

    Convolutions are measured with a folded normalisation layer.

    Args:
        plan: a plan that knows the sizes of its feature maps.
        batch: images in each call.
        device, dtype, threads, runtime, channels_last, cache, progress: see `leanconv.optimize`.

    Returns:
        the times of each layer, in milliseconds a call.

    Raises:
        SettingError: the plan does not know the sizes of its feature maps.
    """

    def ways(site: Site, module: LeanLayer) -> Builds:
        return {DENSE: lambda: dense_layer(site, device), **lean_forms(site, module, device)}

    store = TimeStore(default_store() if cache == "default" else cache)
    return layers.layer_times(
        plan, ways, store, batch=batch, device=device, dtype=dtype, threads=threads, runtime=runtime,
        channels_last=channels_last, progress=progress,
    )  # fmt: skip


def dense_layer(site: Site, device: str | torch.device = "cpu") -> nn.Module:
    """The dense layer of a site as it is measured: with random weights, and with a folded normalisation layer."""
    if site.kind == "linear":
        return _AtPositions(nn.Linear(site.spec.in_channels, site.spec.out_channels, site.spec.bias, device=device))
    weight = torch.randn(site.spec.weight_shape, device=device)
    return conv_of(site.spec, weight, torch.ones(site.spec.out_channels, device=device))


def lean_forms(site: Site, module: LeanLayer, device: str | torch.device = "cpu") -> Builds:
    """The forms of a lean layer as they are measured, with a folded normalisation layer; the first is the default."""
    if isinstance(module, LeanLinear):
        return {"module": lambda: _AtPositions(module)}
    ones = torch.ones(site.spec.out_channels, device=device)
    return forms_of(module, Affine(ones, torch.zeros_like(ones)))


def faster_only(plan: Plan, times: Sequence[LayerTime] | None = None, **settings: Any) -> Plan:
    """`plan` without the groups that are slower lean than dense on this device.

    A group is converted or left dense as a whole, because its layers share weights: the sum of its times decides.

    Args:
        times: the result of `layer_times`; None measures now.
        settings: arguments of `layer_times`.

    Raises:
        SettingError: the times belong to another plan.
    """
    times = layer_times(plan, **settings) if times is None else times
    groups, kept = [], list(plan.kept)
    for number, group in enumerate(plan.groups):
        own = [time for time in times if time.group == number]
        if [time.name for time in own] != [site.name for site in group.sites]:
            raise SettingError("times were measured for another plan; leave times out to measure again")
        dense, lean = sum(time.dense_ms for time in own), sum(time.lean_ms for time in own)
        if lean <= dense:
            groups.append(group)
        else:
            reason = f"slower lean on this device: {lean:.3g} ms against {dense:.3g}"
            kept += [Skipped(site, reason) for site in group.sites]
    return replace(plan, groups=tuple(groups), kept=tuple(kept))


def some_faster(plan: Plan, times: Sequence[LayerTime] | None = None, **settings: Any) -> Plan:
    """`faster_only`, for callers that must convert at least one group.

    Raises:
        SettingError: every group would be slower lean.
    """
    left = faster_only(plan, times, **settings)
    if not left.groups:
        raise SettingError(
            "every group would be slower lean on this machine; `leanconv inspect --latency` shows by how much"
        )
    return left


class _AtPositions(nn.Module):
    """A linear layer applied at each position of a feature map (N, C, H, W), so that it is measured like a convolution."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)
