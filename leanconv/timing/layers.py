"""Time the layers of a plan, each dense and lean, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leanconv.conversion.plan import Plan
from leanconv.core.errors import SettingError
from leanconv.core.linear import LeanLinear
from leanconv.core.method import Site
from leanconv.core.operator import ConvOp
from leanconv.timing.latency import Progress, threads_set
from leanconv.timing.modules import Builds, fastest, remembered
from leanconv.timing.store import TimeStore

LeanLayer = ConvOp | LeanLinear
Ways = Callable[
    [Site, LeanLayer], Builds
]  # (site, lean layer) -> the builder of the dense layer, then of each lean form


@dataclass(frozen=True)
class LayerTime:
    """One convolution, dense and lean: milliseconds for all its calls in one forward pass, medians.

    Args:
        name: the convolution's name in the network.
        group: the number of its group in the plan; a group is converted as a whole or not at all.
        dense_ms, lean_ms: the time of the dense layer, and of the lean layer in its fastest form.
        form: the form in which the lean layer is fastest.

    >>> LayerTime("conv1", 0, dense_ms=1.0, lean_ms=2.0, form="module").slower
    True
    """

    name: str
    group: int
    dense_ms: float
    lean_ms: float
    form: str

    @property
    def slower(self) -> bool:
        """Whether the lean layer takes longer than the dense layer."""
        return self.lean_ms > self.dense_ms


@torch.no_grad()
def layer_times(
    plan: Plan,
    ways: Ways,
    store: TimeStore,
    *,
    batch: int = 1,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
    runtime: str = "eager",
    channels_last: bool = True,
    progress: Progress | None = None,
) -> list[LayerTime]:
    """Time every convolution that `plan` converts, at the sizes of its feature maps in the network.

    Args:
        plan: a plan that was made with an input size.
        ways: the modules to time for one layer: the dense layer first, then the forms of the lean layer.
        store: times of earlier measurements; the new times are added and written.
        batch: images in a call.
        device, dtype, threads, runtime, channels_last: how the modules run.
        progress: called with (done, all) before each layer.

    Raises:
        SettingError: the plan does not hold the sizes of its feature maps.
    """
    threads = threads or torch.get_num_threads()
    device = torch.device(device)
    total = sum(len(group.sites) for group in plan.groups)
    found: list[LayerTime] = []
    with threads_set(threads):
        for number, group in enumerate(plan.groups):
            with torch.device(device):
                modules = group.build()
            for site, module in zip(group.sites, modules, strict=True):
                if progress is not None:
                    progress(len(found), total)
                assert isinstance(module, LeanLayer)
                module.eval()
                builds = ways(site, module)
                dense_ms = lean_ms = 0.0
                form = ""
                for x in inputs_of(site, batch, device, dtype, channels_last):
                    dense, times = _times(module, builds, x, runtime, threads, store)
                    form = fastest(times)
                    dense_ms += dense
                    lean_ms += times[form]
                found.append(LayerTime(site.name, number, dense_ms, lean_ms, form))
    store.write()
    return found


def _times(
    module: LeanLayer, builds: Builds, x: Tensor, runtime: str, threads: int, store: TimeStore
) -> tuple[float, dict[str, float]]:
    """Milliseconds of the dense layer, and of the lean layer in each form."""
    settings = module.signature() if isinstance(module, ConvOp) else module
    times = remembered(f"{type(module).__name__} {settings}", builds, x, runtime, threads, store)
    return times.pop(next(iter(builds))), times


def inputs_of(site: Site, batch: int, device: torch.device, dtype: torch.dtype, channels_last: bool) -> list[Tensor]:
    """An input for each call of the layer in a forward pass: the smallest input that gives the output's size.

    Args:
        site: the layer, with its sizes.
        batch, device, dtype, channels_last: of the inputs, whose values are not set.

    Raises:
        SettingError: the sizes are unknown.
    """
    if not site.sizes:
        raise SettingError(f"the plan does not hold the size of {site.name}'s map; make the plan with input_size")
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
