"""Time modules that compute the same function, interleaved, to find the fastest on this device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from leanconv.core.generators import random_kept
from leanconv.core.layout import is_channels_last, to_channels_last
from leanconv.core.modes import in_eval
from leanconv.timing import runtimes
from leanconv.timing.latency import time_interleaved
from leanconv.timing.store import TimeStore, key_of

ROUNDS = 7
MARGIN = 0.05
SECONDS = 0.2
WARM_UP = 0.1
Builds = Mapping[str, Callable[[], nn.Module]]  # name -> the function that builds the module


def remembered(
    name: str, builds: Builds, example: Tensor, runtime: str, threads: int, store: TimeStore
) -> dict[str, float]:
    """The times that `measure` gives, from `store` if they were measured before.

    Args:
        name: what the modules compute and with which settings, so that an equal name means equal times.
        builds, example, runtime, threads: as for `measure`.
        store: earlier times; new times are added.
    """
    key = key_of(f"{name} {', '.join(builds)}", example, runtime, threads)
    if key not in store.times:
        store.times[key] = measure(builds, example, runtime, threads)
    return {build: value for build, value in store.times[key].items() if build in builds}


@random_kept()
def measure(builds: Builds, example: Tensor, runtime: str, threads: int) -> dict[str, float]:
    """Milliseconds for one call of each module on random values of `example`'s shape, interleaved.

    A module that the runtime cannot run is left out. If the runtime cannot run the first module, its error is raised.

    Args:
        builds: name -> the function that builds the module.
        example: an input, which gives shape, dtype, device and memory format.
        runtime: one of `leanconv.timing.runtimes.RUNTIMES`.
        threads: CPU threads.
    """
    x = torch.randn(example.shape, dtype=example.dtype, device=example.device)
    if is_channels_last(example):
        x = x.contiguous(memory_format=torch.channels_last)
    calls: dict[str, runtimes.Call] = {}
    for name, build in builds.items():
        module = build()
        try:
            calls[name] = prepared(module, x, runtime, threads)
            calls[name]()
        except Exception:  # for example an unknown operation, or a kernel too large for the GPU
            calls.pop(name, None)  # choose from the others
            if name == next(iter(builds)):
                raise
    timed = time_interleaved(calls, device=x.device, min_rounds=ROUNDS, seconds=SECONDS, warm_up=WARM_UP)
    return {entry.name: round(entry.median_ms, 5) for entry in timed}


def prepared(module: nn.Module, x: Tensor, runtime: str, threads: int) -> runtimes.Call:
    """A call of a copy of a layer on `x`, as the layer runs inside a network: in the memory layout of `x`.

    Args:
        module: the layer.
        x: the input.
        runtime: one of `leanconv.timing.runtimes.RUNTIMES`.
        threads: CPU threads.
    """
    module = in_eval(copy.deepcopy(module))
    if runtime in runtimes.PACKAGES:
        module = _between(module, x)
    module = module.to(dtype=x.dtype)
    if is_channels_last(x):
        module = to_channels_last(module)
    return runtimes.prepare(runtime, module, x, threads)


@random_kept()
def _between(module: nn.Module, x: Tensor) -> nn.Module:
    """`module` between two cheap convolutions. A runtime with its own memory layout then has this layout around the layer,
    as in a network."""
    with torch.no_grad():
        out = module.double()(x[:1].double()).shape[1]
    before, after = (nn.Conv2d(c, c, 1, groups=c, bias=False, device=x.device) for c in (x.shape[1], out))
    return in_eval(nn.Sequential(before, module, after))


def fastest(times: Mapping[str, float]) -> str:
    """The name with the least time; the first name if no other is faster by more than `MARGIN`.

    The first form is the default: mostly a plain convolution, which every runtime can fuse with its neighbours.

    >>> fastest({"dense": 1.0, "folded": 0.99}), fastest({"dense": 1.0, "folded": 0.5})
    ('dense', 'folded')
    """
    first, best = next(iter(times)), min(times, key=times.__getitem__)
    return best if times[best] < (1 - MARGIN) * times[first] else first
