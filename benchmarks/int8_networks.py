"""Time networks in int8 beside float32: ``python benchmarks/int8_networks.py --files DIR -o FILE``.

The networks are those of rivals.py, with random weights and 224 pixels. DIR keeps the files, so ``--prepare`` makes them in
advance, and the timing alone then takes one minute for each batch size. Each batch size is one interleaved run of all files.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from rivals import NETWORKS, SIZE

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.deploy.formats import FORMATS, run_onnx, run_openvino
from leanconv.deploy.int8 import FORMAT_OF, quantize_file
from leanconv.testing import unsettle_
from leanconv.timing import runtimes
from leanconv.timing.latency import threads_set, time_interleaved

CHOSEN = ("ResNet-50", "TiedResNet50-S", "TiedResNet50-S, aligned", "SPConv-ResNet50", "ResNet-50, tied B = 2")
WEIGHTS = ("float32", "int8")


def file_of(folder: Path, label: str, weights: str, runtime: str) -> Path:
    return folder / f"{label.replace(' ', '_').replace(',', '')}.{weights}{FORMATS[FORMAT_OF[runtime]].files[0]}"


def prepare(given: argparse.Namespace) -> None:
    """Write the float32 and the int8 file of every network that DIR does not hold yet."""
    given.files.mkdir(parents=True, exist_ok=True)
    for label in given.networks:
        path = file_of(given.files, label, "int8", given.runtime)
        if path.is_file():
            continue
        torch.manual_seed(0)
        network = NETWORKS[label]().eval()
        unsettle_(network)  # so that no branch is 0
        before = file_of(given.files, label, "float32", given.runtime)
        lc.export(network, before, form="fast", example=torch.randn(2, *SIZE), verify=False)
        quantize_file(before, path, [torch.randn(2, *SIZE) for _ in range(given.calibrate // 2)], given.runtime)
        print(f"wrote {path.name}", flush=True)


def int8_layers(path: Path, runtime: str) -> tuple[int, int] | None:
    """The number of convolutions that OpenVINO computes in int8, and the number of all; None for another runtime."""
    if runtime != "openvino":
        return None
    model = runtimes.openvino_core().read_model(path)
    model.reshape([1, *SIZE])
    compiled = runtimes.openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    info = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kernels = Counter(
        node["primitiveType"].astype(str) for node in info if node["layerType"].astype(str).endswith("Convolution")
    )
    print(f"  {path.name}: {dict(kernels)}", flush=True)
    return sum(number for kernel, number in kernels.items() if kernel.lower().endswith("i8")), kernels.total()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(CHOSEN))
    parser.add_argument("--files", type=Path, required=True, help="folder of the files, which stay")
    parser.add_argument("--prepare", action="store_true", help="only write the files")
    parser.add_argument("--runtime", choices=FORMAT_OF, default="openvino")
    parser.add_argument("--calibrate", type=int, default=8, help="random images for the ranges")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing, for each batch size")
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    prepare(given)
    if given.prepare:
        return
    if given.out is None:
        parser.error("give a file: -o FILE")
    counts = {label: lc.count(NETWORKS[label]().eval(), SIZE) for label in given.networks}
    names = {f"{label}\0{weights}": (label, weights) for label in given.networks for weights in WEIGHTS}
    files = {name: file_of(given.files, *key, given.runtime) for name, key in names.items()}
    quantized = {name: int8_layers(path, given.runtime) for name, path in files.items()}
    rows: list[dict[str, Any]] = []
    for batch in given.batch:
        x = torch.randn(batch, *SIZE)
        runs = {
            name: run_onnx(path, given.threads) if given.runtime == "onnxruntime" else run_openvino(path, given.threads, x.shape)
            for name, path in files.items()
        }  # fmt: skip
        calls = {name: lambda run=run, x=x: run(x) for name, run in runs.items()}
        with threads_set(given.threads):
            found = {entry.name: entry for entry in time_interleaved(calls, seconds=given.seconds)}
        for name, (label, weights) in names.items():
            time, own, dense = found[name], found[f"{label}\0float32"], found[f"{given.networks[0]}\0{weights}"]
            layers = quantized[name]
            rows.append({"batch": batch, "network": label, "weights": weights, "params": counts[label].params,
                         "macs": counts[label].macs, "file_bytes": file_bytes(files[name]), "convolutions": layers and layers[1],
                         "in_int8": layers and layers[0], "latency_ms": time.median_ms, "latency_ms_q25": time.q25_ms,
                         "latency_ms_q75": time.q75_ms, "of_float32": time.median_ms / own.median_ms,
                         "of_dense": time.median_ms / dense.median_ms, "rounds": time.rounds, "busy": time.busy})  # fmt: skip
            print(f"{batch:3} {label:28} {weights:8} {time.median_ms:8.2f} ms, of its float32 "
                  f"{rows[-1]['of_float32']:.2f}, of dense {rows[-1]['of_dense']:.2f}", flush=True)  # fmt: skip
    head = provenance(shlex.join(["python", "benchmarks/int8_networks.py", *sys.argv[1:]]))
    head["versions"] |= runtimes.versions()
    settings = {
        "runtime": given.runtime,
        "threads": given.threads,
        "input_size": list(SIZE),
        "calibrate": given.calibrate,
    }
    rounds = max(row["rounds"] for row in rows)
    write_json(given.out, {**head, "kind": "int8", "settings": settings, "n": rounds, "seeds": [0], "rows": rows})


def file_bytes(path: Path) -> int:
    """Bytes of the file and of the weights beside it."""
    return sum(other.stat().st_size for other in path.parent.glob(f"{path.stem}.*"))


if __name__ == "__main__":
    main()
