"""Profile networks in OpenVINO: the time of each kind of layer: ``python benchmarks/profile_openvino.py -o FILE``.

A convolution's kind is its kernel and its groups, with the kernel of the runtime that computes it. The networks are those of
rivals.py, as they are.
"""

from __future__ import annotations

import argparse
import copy
import math
import shlex
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rivals import NETWORKS, SIZE
from torch import nn

from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.timing.runtimes import openvino_core, versions, without_telemetry

HINTS = {"float32": "f32", "bfloat16": "bf16"}
CHOSEN = ("ResNet-50", "TiedResNet50-S", "SPConv-ResNet50")


@dataclass
class Kind:
    """Layers of one kind.

    Args:
        layers: their number.
        macs: their multiply-adds in one call.
        times: milliseconds of all of them, for each call.
    """

    layers: int = 0
    macs: int = 0
    times: list[float] = field(default_factory=list)


def described(node: Any) -> tuple[str, int]:
    """The kernel and groups of an OpenVINO convolution, and its multiply-adds; "" and 0 for another node."""
    if node is None or node.get_type_name() not in ("Convolution", "GroupConvolution"):
        return "", 0
    weight = list(node.input(1).get_shape())  # (O, I, kh, kw), or (G, O / G, I / G, kh, kw)
    groups = weight[0] if node.get_type_name() == "GroupConvolution" else 1
    fan_in, out = math.prod(weight[-3:]), node.output(0).get_shape()
    said = f" {weight[-2]}x{weight[-1]}" + (f", groups {groups} of {weight[-3]}" if groups > 1 else "")
    return said, math.prod(out) * fan_in


def profile(model: nn.Module, x: torch.Tensor, hint: str, threads: int, calls: int) -> dict[str, Kind]:
    """The kinds of layers of the runtime, with their times in each call."""
    without_telemetry()
    import openvino

    with torch.no_grad():
        converted = openvino.convert_model(torch.export.export(copy.deepcopy(model).eval(), (x,)))
    converted.reshape(list(x.shape))
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    request = openvino_core().compile_model(converted, "CPU", {**settings, "PERF_COUNT": True}).create_infer_request()
    nodes = {node.get_friendly_name(): node for node in converted.get_ops()}
    found: dict[str, Kind] = defaultdict(Kind)
    for number in range(calls + 3):
        request.infer({0: x.numpy()})
        totals: dict[str, list[float]] = defaultdict(list)
        macs: dict[str, int] = defaultdict(int)
        for layer in request.profiling_info:
            milliseconds = layer.real_time.total_seconds() * 1000
            if milliseconds == 0:
                continue
            said, own = described(nodes.get(layer.node_name))
            kind = f"{layer.node_type}{said} ({layer.exec_type.removesuffix('_FP32').removesuffix('_f32')})"
            totals[kind].append(milliseconds)
            macs[kind] += own
        if number >= 3:
            for kind, values in totals.items():
                found[kind].layers, found[kind].macs = len(values), macs[kind]
                found[kind].times.append(sum(values))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(CHOSEN))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", nargs="+", choices=HINTS, default=list(HINTS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(0)
    rows: list[dict[str, object]] = []
    x = torch.randn(given.batch, *SIZE)
    for label in given.networks:
        model = NETWORKS[label]().eval()
        for precision in given.precision:
            kinds = profile(model, x, HINTS[precision], given.threads, given.calls)
            times = {kind: statistics.median(found.times) for kind, found in kinds.items()}
            total = sum(times.values())
            print(f"{label}, {precision}: {total:.2f} ms in {sum(found.layers for found in kinds.values())} layers")
            for kind, value in sorted(times.items(), key=lambda item: -item[1]):
                if value < 0.01 * total:
                    continue
                speed = kinds[kind].macs / value / 1e6 if kinds[kind].macs else None
                rows.append({"network": label, "precision": precision, "layer": kind, "layers": kinds[kind].layers,
                             "layer_ms": value, "share": value / total, "macs": kinds[kind].macs or None,
                             "gmac_per_s": speed})  # fmt: skip
                print(f"  {kind:60} {kinds[kind].layers:4} layers {value:8.2f} ms {value / total:.2f} "
                      f"{'' if speed is None else f'{speed:6.0f} GMAC/s'}", flush=True)  # fmt: skip
    head = provenance(shlex.join(["python", "benchmarks/profile_openvino.py", *sys.argv[1:]]))
    head["versions"] |= versions()
    settings = {"threads": given.threads, "batch": given.batch}
    write_json(
        given.out, {**head, "kind": "profile", "settings": settings, "n": given.calls, "seeds": [0], "rows": rows}
    )


if __name__ == "__main__":
    main()
