"""Time a batch as one call and as several calls on parts of it, in OpenVINO: ``python benchmarks/chunks.py -o FILE``.

A large batch moves its feature maps through main memory, where a part of it may stay in the caches. Lean layers keep the maps of
the dense network and multiply less, so they wait for memory first. All networks and parts are timed in one interleaved run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rivals import NETWORKS, SIZE

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.timing import runtimes
from leanconv.timing.latency import threads_set, time_interleaved

CHOSEN = ("ResNet-50", "TiedResNet50-S", "ResNet-50, tied B = 2", "ResNet-50, pruned to 0.51")


def several(call: runtimes.Call, times: int) -> Callable[[], None]:
    def calls() -> None:
        for _ in range(times):
            call()

    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(CHOSEN))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--parts", nargs="+", type=int, default=[16, 4, 1], help="images in a call; each divides the batch"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(0)
    calls, counts = {}, {}
    for label in given.networks:
        network = NETWORKS[label]().eval()
        counts[label] = lc.count(network, SIZE)
        for part in given.parts:
            call = runtimes.prepare("openvino", network, torch.randn(part, *SIZE), given.threads)
            calls[f"{label}\0{part}"] = several(call, given.batch // part)
    with threads_set(given.threads):
        found = time_interleaved(calls, seconds=given.seconds)
    rows = []
    for entry in found:
        label, part = entry.name.split("\0")
        rows.append({"network": label, "batch": given.batch, "images_a_call": int(part), "params": counts[label].params,
                     "macs": counts[label].macs, "latency_ms": entry.median_ms, "latency_ms_q25": entry.q25_ms,
                     "latency_ms_q75": entry.q75_ms, "ratio": entry.ratio, "ratio_q25": entry.ratio_q25,
                     "ratio_q75": entry.ratio_q75, "rounds": entry.rounds, "busy": entry.busy})  # fmt: skip
        print(f"{label:28} {part:>3} a call {entry.median_ms:8.2f} ms {entry.ratio:.3f}", flush=True)
    head = provenance(shlex.join(["python", "benchmarks/chunks.py", *sys.argv[1:]]))
    head["versions"] |= runtimes.versions()
    settings = {"runtime": "openvino", "threads": given.threads, "batch": given.batch, "input_size": list(SIZE)}
    rounds = max(entry.rounds for entry in found)
    write_json(given.out, {**head, "kind": "chunks", "settings": settings, "n": rounds, "seeds": [0], "rows": rows})


if __name__ == "__main__":
    main()
