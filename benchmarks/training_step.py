"""Compare a training step of each method with dense: ``python benchmarks/training_step.py resnet20 -o FILE``.

A step is the forward pass, the backward pass and the SGD update on one batch in memory, in channels_last, with
freed memory kept, as in `leanconv train`.
The steps of all methods are interleaved. ``wide`` is a network of three wide blocks, and ``--all`` takes every method.
``--clock cpu`` times the processor time of one thread, which other programs on the machine change less than the wall time.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.errors import LeanconvWarning
from leanconv.core.machine import provenance
from leanconv.ops import METHODS as REGISTERED
from leanconv.timing.latency import Latency, threads_set, time_interleaved
from leanconv.train.allocator import kept_memory
from leanconv.train.scoring import autocast

METHODS = {
    "dense": None,
    "tied_block(blocks=2)": lc.TiedBlock(),
    "split(ratio=0.5)": lc.Split(),
    "shared_basis(shared=8)": lc.SharedBasis(),
    "depth_shared": lc.DepthShared(),
}

# Further settings of `--all`: about half the MACs of dense where the default has fewer, and the variants of a method
FURTHER = (
    lc.DepthShared(blend=True),
    lc.Het(part=2),
    lc.SharedBasis(shared=24),
    lc.Split(ratio=0.75),
    lc.Split(fusion=False),
)
SIZES = {"wide": (3, 32, 32)}


def wide() -> nn.Module:
    """Three blocks of 64, 256 and 256 channels for images of 32x32: 118 M MACs."""
    layers: list[nn.Module] = [nn.Conv2d(3, 24, 2), nn.GELU()]
    inputs = 24
    for width in (64, 256, 256):
        layers += [
            nn.Conv2d(inputs, width, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(width),
            nn.GELU(),
        ]
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
        inputs = width
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(inputs, 10))


def networks_of(name: str, every: bool) -> tuple[dict[str, nn.Module], tuple[int, int, int]]:
    """The dense network and its lean ones, by method, and the size of an image."""

    def built() -> nn.Module:
        return wide() if name == "wide" else lc.create_model(name, num_classes=10)

    dense = built()
    size = SIZES.get(name) or lc.plan(dense, lc.TiedBlock()).input_size
    assert size is not None
    stem = next(name for name, module in dense.named_modules() if isinstance(module, nn.Conv2d))
    methods = [*(kind() for kind in REGISTERED), *FURTHER] if every else [m for m in METHODS.values() if m is not None]
    labels = (
        [method.label() for method in methods] if every else [label for label, m in METHODS.items() if m is not None]
    )
    plans = {label: lc.plan(dense, m, exclude=stem, input_size=size) for label, m in zip(labels, methods, strict=True)}
    return {"dense": built(), **{label: lc.convert(dense, plan) for label, plan in plans.items()}}, size


def processor_times(calls: Mapping[str, Callable[[], None]], rounds: int, seconds: float) -> list[Latency]:
    """As `time_interleaved`, in milliseconds of processor time of this process."""
    for call in calls.values():
        call()
    found: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(found) < rounds or time.perf_counter() < end:
        times = []
        for call in calls.values():
            start = time.process_time()
            call()
            times.append(1000 * (time.process_time() - start))
        found.append(times)
    table = np.array(found)
    low, middle, high = np.quantile(table, (0.25, 0.5, 0.75), axis=0)
    ratios = np.quantile(table / table[:, :1], (0.25, 0.5, 0.75), axis=0)
    return [
        Latency(name, middle[i], low[i], high[i], ratios[1, i], ratios[0, i], ratios[2, i], len(table))
        for i, name in enumerate(calls)
    ]


def step_of(
    model: nn.Module, size: tuple[int, int, int], batch: int, precision: str, compiled: bool
) -> Callable[[], None]:
    model = model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)
    images = torch.randn(batch, *size).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    call = torch.compile(model) if compiled else model

    def step() -> None:
        with autocast(images.device, precision):  # type: ignore[arg-type]
            loss = F.cross_entropy(call(images).float(), labels) + lc.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", nargs="?", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--all", action="store_true", help="every registered method, and further settings")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu needs --threads 1")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(0)
    if given.clock == "cpu" and given.threads != 1:
        parser.error("--clock cpu needs --threads 1: threads that wait for each other use processor time too")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeanconvWarning)  # a basis above its break-even is a row like any other
        networks, size = networks_of(given.network, given.all)
    with threads_set(given.threads), kept_memory(torch.device("cpu")):
        calls = {
            label: step_of(model, size, given.batch, given.precision, given.compile)
            for label, model in networks.items()
        }
        if given.clock == "cpu":
            found = processor_times(calls, 5, given.seconds)
        else:
            found = time_interleaved(calls, min_rounds=5, seconds=given.seconds, warm_up=3)
    rows = []
    for entry in found:
        counted = lc.count(networks[entry.name], size)
        rate = 1000 * given.batch / entry.median_ms
        rows.append({
            "method": entry.name, "threads": given.threads, "params": counted.params, "macs": counted.macs,
            "step_ms": entry.median_ms, "step_ms_q25": entry.q25_ms, "step_ms_q75": entry.q75_ms,
            "step_ratio": entry.ratio, "step_ratio_q25": entry.ratio_q25, "step_ratio_q75": entry.ratio_q75,
            "images_per_s": rate,
        })  # fmt: skip
        print(
            f"{entry.name:38} {entry.median_ms:8.1f} ms  {entry.ratio:.2f} of dense  {rate:7.0f} images/s", flush=True
        )
    head = provenance(shlex.join(["python", "benchmarks/training_step.py", *sys.argv[1:]]))
    settings = {name: getattr(given, name) for name in ("network", "batch", "precision", "threads", "compile", "clock")}
    n = found[0].rounds
    write_json(given.out, {**head, "kind": "steps", "settings": settings, "n": n, "seeds": [0], "rows": rows})


if __name__ == "__main__":
    main()
