"""Measure time and memory against depth, width, batch and image size: ``python benchmarks/growth.py -o FILE``.

The networks are dense and lean CIFAR ResNets at inference, in their fastest forms (`leanconv.optimize`), in eager PyTorch with
channels_last. One setting varies; the others keep their middle value.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import torch
from torch import nn

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.models.resnet import resnet
from leanconv.timing import runtimes
from leanconv.timing.latency import threads_set, time_interleaved
from leanconv.timing.memory import peak_bytes

METHODS = {
    "tied_block(blocks=2)": lc.TiedBlock(),
    "split(ratio=0.5)": lc.Split(),
    "shared_basis(shared=8)": lc.SharedBasis(),
    "depth_shared": lc.DepthShared(),
}
MIDDLE = {"depth": 20, "width": 32, "batch": 8, "image": 32}
AXES = {
    "depth": (8, 14, 20, 32, 56),
    "width": (8, 16, 32, 64, 128),
    "batch": (1, 2, 4, 8, 16, 32),
    "image": (8, 16, 32, 64, 128),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    rows: list[dict[str, object]] = []
    with threads_set(given.threads):
        for axis in given.axes:
            for value in AXES[axis]:
                for row in measured(**(MIDDLE | {axis: value}), threads=given.threads, seconds=given.seconds):
                    rows.append({"axis": axis, "value": value, **row})
                    print(axis, value, row["method"], f"{row['latency_ms']:.2f} ms", row["peak_bytes"], flush=True)
    head = provenance(shlex.join(["python", "benchmarks/growth.py", *sys.argv[1:]]))
    settings = {"threads": given.threads, "precision": "float32", "layout": "channels_last", "middle": MIDDLE}
    rounds = max(int(row["rounds"]) for row in rows)  # type: ignore[call-overload]
    write_json(given.out, {**head, "kind": "growth", "settings": settings, "n": rounds, "seeds": [0], "rows": rows})


def measured(
    *, depth: int, width: int, batch: int, image: int, threads: int, seconds: float
) -> list[dict[str, object]]:
    torch.manual_seed(0)
    dense = resnet([(depth - 2) // 6] * 3, width=width).eval()
    x = torch.randn(batch, 3, image, image).contiguous(memory_format=torch.channels_last)
    networks: dict[str, nn.Module] = {"dense": dense}
    for label, method in METHODS.items():
        plan = lc.plan(dense, method, exclude="conv1", input_size=(3, image, image))
        networks[label] = lc.convert(dense, plan).eval()
    counts = {label: lc.count(network, (3, image, image)) for label, network in networks.items()}
    fast = {label: lc.optimize(network, x, threads=threads) for label, network in networks.items()}
    calls = {label: runtimes.prepare("eager", network, x, threads) for label, network in fast.items()}
    found = time_interleaved(calls, min_rounds=10, seconds=seconds, warm_up=0.3)
    rows: list[dict[str, object]] = []
    for entry in found:
        counted = counts[entry.name]
        rows.append({
            "method": entry.name, "params": counted.params, "macs": counted.macs, "latency_ms": entry.median_ms,
            "latency_ms_q25": entry.q25_ms, "latency_ms_q75": entry.q75_ms, "ratio": entry.ratio,
            "ratio_q25": entry.ratio_q25, "ratio_q75": entry.ratio_q75, "rounds": entry.rounds,
            "peak_bytes": peak_bytes(calls[entry.name]),
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
