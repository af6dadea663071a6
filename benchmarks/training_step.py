"""Compare a training step of each method with dense: ``python benchmarks/training_step.py resnet20 -o FILE``.

A step is the forward pass, the backward pass and the SGD update on one batch in memory, in channels_last, as in `leanconv train`.
The steps of all methods are interleaved.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.timing.latency import threads_set, time_interleaved
from leanconv.train.scoring import autocast

METHODS = {
    "dense": None,
    "tied_block(blocks=2)": lc.TiedBlock(),
    "split(ratio=0.5)": lc.Split(),
    "shared_basis(shared=8)": lc.SharedBasis(),
    "depth_shared": lc.DepthShared(),
}


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
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(0)
    dense = lc.create_model(given.network, num_classes=10)
    size = lc.plan(dense, lc.TiedBlock()).input_size
    assert size is not None
    stem = next(name for name, module in dense.named_modules() if isinstance(module, nn.Conv2d))
    networks = {
        label: lc.create_model(given.network, num_classes=10)
        if method is None
        else lc.convert(dense, lc.plan(dense, method, exclude=stem))
        for label, method in METHODS.items()
    }
    with threads_set(given.threads):
        calls = {
            label: step_of(model, size, given.batch, given.precision, given.compile)
            for label, model in networks.items()
        }
        found = time_interleaved(calls, min_rounds=5, seconds=given.seconds, warm_up=3)
    rows = []
    for entry in found:
        counted = lc.count(networks[entry.name], size)
        rate = 1000 * given.batch / entry.median_ms
        rows.append({
            "method": entry.name, "threads": given.threads, "params": counted.params, "macs": counted.macs,
            "step_ms": entry.median_ms, "step_ms_q25": entry.q25_ms, "step_ms_q75": entry.q75_ms,
            "step_ratio": entry.ratio, "images_per_s": rate,
        })  # fmt: skip
        print(
            f"{entry.name:26} {entry.median_ms:8.1f} ms  {entry.ratio:.2f} of dense  {rate:7.0f} images/s", flush=True
        )
    head = provenance(shlex.join(["python", "benchmarks/training_step.py", *sys.argv[1:]]))
    settings = {name: getattr(given, name) for name in ("network", "batch", "precision", "threads", "compile")}
    n = found[0].rounds
    write_json(given.out, {**head, "kind": "steps", "settings": settings, "n": n, "seeds": [0], "rows": rows})


if __name__ == "__main__":
    main()
