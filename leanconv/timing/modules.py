"""Modules that compute the same, timed side by side: which of them is fastest on this device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from leanconv.core.layout import is_channels_last, to_channels_last
from leanconv.timing import runtimes
from leanconv.timing.latency import time_interleaved
from leanconv.timing.store import TimeStore, key_of

ROUNDS = 7
MARGIN = 0.05
SECONDS = 0.2
WARM_UP = 0.1
Builds = Mapping[str, Callable[[], nn.Module]]  # name -> what builds the module


def remembered(
    name: str, builds: Builds, example: Tensor, runtime: str, threads: int, store: TimeStore
) -> dict[str, float]:
    """What `measure` gives, from `store` where it was measured before.

    Args:
        name: what the modules compute and with which settings, so that an equal name means equal times.
    """
    key = key_of(f"{name} {', '.join(builds)}", example, runtime, threads)
    if key not in store.times:
        store.times[key] = measure(builds, example, runtime, threads)
    return {build: value for build, value in store.times[key].items() if build in builds}


def measure(builds: Builds, example: Tensor, runtime: str, threads: int) -> dict[str, float]:
    """Milliseconds a call of each module on random values like `example`, interleaved.

    One that the runtime cannot run is left out, but for the first, whose error is raised.
    """
    x = torch.randn(example.shape, dtype=example.dtype, device=example.device)
    if is_channels_last(example):
        x = x.contiguous(memory_format=torch.channels_last)
    calls: dict[str, runtimes.Call] = {}
    for name, build in builds.items():
        module = copy.deepcopy(build()).eval()
        if runtime in runtimes.PACKAGES:
            module = _between(module, x)
        module = module.to(dtype=x.dtype)
        if is_channels_last(x):
            module = to_channels_last(module)
        try:
            calls[name] = runtimes.prepare(runtime, module, x, threads)
            calls[name]()
        except Exception:  # an exporter that does not know an operation, a kernel too large for this GPU
            calls.pop(name, None)  # the others are left to choose from
            if name == next(iter(builds)):
                raise
    timed = time_interleaved(calls, device=x.device, min_rounds=ROUNDS, seconds=SECONDS, warm_up=WARM_UP)
    return {entry.name: round(entry.median_ms, 5) for entry in timed}


def _between(module: nn.Module, x: Tensor) -> nn.Module:
    """`module` between two cheap convolutions: a runtime with a memory layout of its own then has it around the layer too,
    as it has in the network."""
    with torch.no_grad():
        out = module.double()(x[:1].double()).shape[1]
    before, after = (nn.Conv2d(c, c, 1, groups=c, bias=False, device=x.device) for c in (x.shape[1], out))
    return nn.Sequential(before, module, after).eval()


def fastest(times: Mapping[str, float]) -> str:
    """The name with the least time; the first one, where no other is quicker by more than `MARGIN`.

    The first is what the rule takes: mostly a plain convolution, which every runtime knows how to fit into a network.
    """
    first, best = next(iter(times)), min(times, key=times.__getitem__)
    return best if times[best] < (1 - MARGIN) * times[first] else first
