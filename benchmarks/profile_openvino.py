"""Profile networks in OpenVINO: the time by kind of layer: ``python benchmarks/profile_openvino.py -o FILE``."""

from __future__ import annotations

import argparse
import copy
import shlex
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.timing.runtimes import openvino_core, without_telemetry

NETWORKS = {
    "ResNet-50": "timm/resnet50",
    "TiedResNet50-S": "tied_resnet50_s",
    "SPConv-ResNet50": "spconv_resnet50",
}


def profile(model: nn.Module, x: torch.Tensor, hint: str, threads: int, calls: int) -> dict[str, float]:
    """The milliseconds of one call for each kind of layer of the runtime, as medians over calls."""
    without_telemetry()
    import openvino

    with torch.no_grad():
        converted = openvino.convert_model(torch.export.export(copy.deepcopy(model).eval(), (x,)))
    converted.reshape(list(x.shape))
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    request = openvino_core().compile_model(converted, "CPU", {**settings, "PERF_COUNT": True}).create_infer_request()
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(calls + 5):
        request.infer({0: x.numpy()})
        totals: dict[str, float] = defaultdict(float)
        for layer in request.profiling_info:
            totals[layer.node_type] += layer.real_time.total_seconds() * 1000
        if number >= 5:
            for kind, value in totals.items():
                found[kind].append(value)
    return {kind: statistics.median(values) for kind, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(0)
    rows: list[dict[str, object]] = []
    x = torch.randn(1, 3, 224, 224)
    for label, name in NETWORKS.items():
        model = lc.create_model(name).eval()
        for precision, hint in (("float32", "f32"), ("bfloat16", "bf16")):
            times = profile(model, x, hint, given.threads, given.calls)
            total = sum(times.values())
            for kind, value in sorted(times.items(), key=lambda item: -item[1]):
                if value > 0.01 * total:
                    rows.append({"network": label, "precision": precision, "layer": kind, "layer_ms": value,
                                 "share": value / total})  # fmt: skip
                    print(*rows[-1].values(), flush=True)
    head = provenance(shlex.join(["python", "benchmarks/profile_openvino.py", *sys.argv[1:]]))
    settings = {"threads": given.threads, "batch": 1}
    write_json(
        given.out, {**head, "kind": "profile", "settings": settings, "n": given.calls, "seeds": [0], "rows": rows}
    )


if __name__ == "__main__":
    main()
