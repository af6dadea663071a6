"""Layer by layer, dense and lean on this device: before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from leanconv.conversion.plan import Plan
from leanconv.core.affine import Affine, conv_of
from leanconv.core.errors import SettingError
from leanconv.core.linear import LeanLinear
from leanconv.core.method import Site, Skipped
from leanconv.core.operator import ConvOp
from leanconv.core.spec import ConvSpec
from leanconv.inference.autotune import FormCache, Progress, default_cache, fastest, times_of
from leanconv.inference.forms import forms_of
from leanconv.timing.latency import threads_set

DENSE = "dense layer"


@dataclass(frozen=True)
class LayerTime:
    """One layer, dense and lean: milliseconds for all its calls in one forward pass, medians.

    Args:
        group: number of its group in the plan; all of one group convert or none.
        form: the form in which the lean layer is fastest.
    """

    name: str
    group: int
    dense_ms: float
    lean_ms: float
    form: str

    @property
    def slower(self) -> bool:
        """Whether it would take longer lean than dense."""
        return self.lean_ms > self.dense_ms


@torch.no_grad()
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
    """Measure every layer that `plan` converts, dense and in each form of the lean layer; convolutions with a norm folded in.

    Args:
        batch: images a call.
        device, dtype, threads, runtime, channels_last, cache, progress: see `leanconv.optimize`.

    Raises:
        SettingError: a plan that does not know its maps' sizes.
    """
    store = FormCache(default_cache() if cache == "default" else cache)
    threads = threads or torch.get_num_threads()
    device = torch.device(device)
    total = sum(len(group.sites) for group in plan.groups)
    found: list[LayerTime] = []
    with threads_set(threads):
        for number, group in enumerate(plan.groups):
            make = group.method.build if group.kind == "conv" else group.method.build_linear
            with torch.device(device):
                modules = make(group.specs)
            for site, module in zip(group.sites, modules, strict=True):
                if progress is not None:
                    progress(len(found), total)
                dense_ms = lean_ms = 0.0
                form = ""
                for x in _inputs(site, batch, device, dtype, channels_last):
                    times = _times(site.spec, module.eval(), x, runtime, threads, store)
                    dense_ms += times.pop(DENSE)
                    form = fastest(times)
                    lean_ms += times[form]
                found.append(LayerTime(site.name, number, dense_ms, lean_ms, form))
    store.write()
    return found


def faster_only(plan: Plan, times: Sequence[LayerTime] | None = None, **settings: object) -> Plan:
    """`plan` without the groups that would take longer lean than dense on this device.

    Args:
        times: what `layer_times` measured; None measures now, with `settings`.

    Source: a group stays together, since its layers share weights: it goes when their sum is slower.
    """
    times = layer_times(plan, **settings) if times is None else times  # type: ignore[arg-type]
    groups, kept = [], list(plan.kept)
    for number, group in enumerate(plan.groups):
        own = [time for time in times if time.group == number]
        if [time.name for time in own] != [site.name for site in group.sites]:
            raise SettingError("these times were measured for another plan; leave them out to measure anew")
        dense, lean = sum(time.dense_ms for time in own), sum(time.lean_ms for time in own)
        if lean <= dense:
            groups.append(group)
        else:
            reason = f"slower lean on this device: {lean:.3g} ms against {dense:.3g}"
            kept += [Skipped(site, reason) for site in group.sites]
    return replace(plan, groups=tuple(groups), kept=tuple(kept))


def _times(
    spec: ConvSpec, module: torch.nn.Module, x: Tensor, runtime: str, threads: int, store: FormCache
) -> dict[str, float]:
    if isinstance(module, LeanLinear):
        dense_linear = nn.Linear(module.in_features, module.out_features, spec.bias, device=x.device)
        layers = {DENSE: dense_linear, "module": module}
        return times_of(
            module, {name: partial(_AtPositions, layer) for name, layer in layers.items()}, x, runtime, threads, store
        )
    assert isinstance(module, ConvOp)
    ones = torch.ones(spec.out_channels, device=x.device)
    affine = Affine(ones, torch.zeros_like(ones))
    own = forms_of(module, affine)
    weight = torch.randn(spec.weight_shape, device=x.device)
    dense = {DENSE: lambda: conv_of(spec, weight, ones)}
    return times_of(module, dense | own, x, runtime, threads, store)


class _AtPositions(nn.Module):
    """A linear layer on the positions of a map, which is how layers are measured."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


def _inputs(site: Site, batch: int, device: torch.device, dtype: torch.dtype, channels_last: bool) -> list[Tensor]:
    """An input for each call of the convolution in a forward pass: the smallest one that gives its output's size."""
    if not site.sizes:
        raise SettingError(f"the plan does not know the size of {site.name}'s map; make it with input_size")
    spec, found = site.spec, []
    left, right, top, bottom = spec.pads
    pads = (top + bottom, left + right)
    for size in site.sizes:
        shape = [
            max(1, (out - 1) * stride + dilation * (kernel - 1) + 1 - pad)
            for out, stride, dilation, kernel, pad in zip(
                size, spec.stride, spec.dilation, spec.kernel_size, pads, strict=True
            )
        ]
        x = torch.empty(batch, spec.in_channels, *shape, device=device, dtype=dtype)
        found.append(x.contiguous(memory_format=torch.channels_last) if channels_last else x)
    return found
