"""Time tied and grouped convolutions against the number of blocks B, at fixed MACs: ``python benchmarks/blocks.py -o FILE``.

The layer is a 3x3 convolution on 56x56 maps (TBC, Fig. 3). The width grows with the square root of B, so the MACs stay constant.
All layers run in eager PyTorch, in their fastest form (`leanconv.optimize`).
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path

import torch
from torch import nn

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.timing import runtimes
from leanconv.timing.latency import threads_set, time_interleaved
from leanconv.timing.memory import peak_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--width", type=int, default=128, help="channels at B = 1; 2048 in the paper, on a GPU")
    parser.add_argument("--side", type=int, default=56)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(0)
    device = given.device
    dense = nn.Sequential(nn.Conv2d(given.width, given.width, 3, padding=1, bias=False)).eval()
    rows: list[dict[str, object]] = []
    with threads_set(given.threads):
        for blocks in given.blocks:
            width = round(given.width * math.sqrt(blocks) / blocks) * blocks
            host = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False)).eval()
            size = (width, given.side, given.side)
            methods = {"tied_block": lc.TiedBlock(blocks), "grouped": lc.Grouped(blocks)}
            networks = {"dense": dense} | {
                label: lc.convert(host, lc.plan(host, method, input_size=size)).eval()
                for label, method in methods.items()
            }
            inputs = {
                label: torch.randn(
                    given.batch, given.width if label == "dense" else width, *size[1:], device=device
                ).to(memory_format=torch.channels_last)
                for label in networks
            }
            counts = {label: lc.count(model, tuple(inputs[label].shape[1:])) for label, model in networks.items()}
            fast = {
                label: lc.optimize(model.to(device), inputs[label], threads=given.threads)
                for label, model in networks.items()
            }
            calls = {label: runtimes.prepare("eager", fast[label], inputs[label], given.threads) for label in fast}
            for entry in time_interleaved(calls, min_rounds=10, seconds=given.seconds, warm_up=0.3, device=device):
                rows.append({
                    "axis": "B at fixed MACs", "value": blocks, "method": entry.name, "width": width,
                    "params": counts[entry.name].params, "macs": counts[entry.name].macs, "latency_ms": entry.median_ms,
                    "latency_ms_q25": entry.q25_ms, "latency_ms_q75": entry.q75_ms, "ratio": entry.ratio,
                    "ratio_q25": entry.ratio_q25, "ratio_q75": entry.ratio_q75, "rounds": entry.rounds,
                    "peak_bytes": peak_bytes(calls[entry.name]),
                })  # fmt: skip
                print(blocks, entry.name, f"{entry.median_ms:.2f} ms {entry.ratio:.2f}", flush=True)
    head = provenance(shlex.join(["python", "benchmarks/blocks.py", *sys.argv[1:]]))
    settings = {
        "threads": given.threads,
        "batch": given.batch,
        "image": given.side,
        "width": given.width,
        "device": device,
        "precision": "float32",
    }
    rounds = max(int(row["rounds"]) for row in rows)  # type: ignore[call-overload]
    write_json(given.out, {**head, "kind": "growth", "settings": settings, "n": rounds, "seeds": [0], "rows": rows})


if __name__ == "__main__":
    main()
