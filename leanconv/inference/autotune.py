"""Which form of a layer is fastest on this device: measured once, and remembered."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from leanconv.core.atomic import write_json
from leanconv.core.layout import is_channels_last, to_channels_last
from leanconv.core.machine import describe_machine
from leanconv.core.operator import ConvOp, Forms, Signature
from leanconv.core.reading import parse_json
from leanconv.core.spec import ConvSpec
from leanconv.inference.merge import Branches
from leanconv.timing import runtimes
from leanconv.timing.latency import time_interleaved

ROUNDS = 7
MARGIN = 0.05
SECONDS = 0.2
WARM_UP = 0.1
Progress = Callable[[int, int], None]
VERSION = 1  # of the file; another one is read as empty


class FormCache:
    """Measured times by (runtime, device, threads, dtype, layout, shape, layer), in a file that several processes may read.

    Args:
        path: None keeps them in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.times: dict[str, dict[str, float]] = {}
        if path is not None and path.exists():
            try:
                found = parse_json(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                found = {}
            if isinstance(found, dict) and found.get("version") == VERSION and isinstance(found.get("times_ms"), dict):
                self.times = found["times_ms"]

    def write(self) -> None:
        """Put what was measured into the file."""
        if self.path is not None:
            write_json(self.path, {"version": VERSION, "times_ms": self.times})


def default_cache() -> Path:
    """``forms.json`` in leanconv's folder of the user's cache (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leanconv" / "forms.json"


def key_of(layer: str, example: Tensor, runtime: str, threads: int) -> str:
    """What a measured time depends on, as one line."""
    layout = "channels_last" if is_channels_last(example) else "contiguous"
    shape = "x".join(map(str, example.shape))
    return " | ".join([runtime, _device(example.device), str(threads), str(example.dtype), layout, shape, layer])


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{describe_machine()['cpu']}, torch {torch.__version__}"


def times_of(
    layer: nn.Module, forms: Forms, example: Tensor, runtime: str, threads: int, store: FormCache
) -> dict[str, float]:
    """Milliseconds of each of `forms`, from `store` where they were measured before."""
    key = key_of(f"{type(layer).__name__} {signature(layer)} {', '.join(forms)}", example, runtime, threads)
    if key not in store.times:
        store.times[key] = measure(forms, example, runtime, threads)
    return {form: value for form, value in store.times[key].items() if form in forms}


def signature(layer: nn.Module) -> str:
    """What a layer computes with, without where it stands: layers with the same one take the same time."""
    if isinstance(layer, Branches):
        return " + ".join(signature(conv) for conv in layer.convs)
    if isinstance(layer, ConvOp):
        return str(layer.signature())
    return str(Signature(type(layer), ConvSpec.of(layer))) if isinstance(layer, nn.Conv2d) else layer.extra_repr()


def measure(forms: Forms, example: Tensor, runtime: str, threads: int) -> dict[str, float]:
    """Milliseconds a call of each form on random values like `example`, interleaved.

    A form that the runtime cannot run is left out.
    """
    x = torch.randn(example.shape, dtype=example.dtype, device=example.device)
    if is_channels_last(example):
        x = x.contiguous(memory_format=torch.channels_last)
    calls: dict[str, runtimes.Call] = {}
    for name, build in forms.items():
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
            if name == next(iter(forms)):
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
    """The form with the least time; the first one, where no other is quicker by more than `MARGIN`.

    The first is what the rule takes: mostly a plain convolution, which every runtime knows how to fit into a network.
    """
    first, best = next(iter(times)), min(times, key=times.__getitem__)
    return best if times[best] < (1 - MARGIN) * times[first] else first
