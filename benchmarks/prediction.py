"""Compare the prediction of `inspect --latency` with the measured network: ``python benchmarks/prediction.py -o FILE``."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import torch

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.search import layer_times, network_times
from leanconv.timing.latency import threads_set

CASES = (
    ("resnet20", "tied_block(blocks=2)", lc.TiedBlock(), 1, (3, 32, 32)),
    ("resnet20", "split(ratio=0.5)", lc.Split(), 1, (3, 32, 32)),
    ("resnet34_cifar", "shared_basis(shared=32)", lc.SharedBasis(32), 8, (3, 32, 32)),
    ("timm/resnet18", "split(ratio=0.5)", lc.Split(), 1, (3, 224, 224)),
    ("timm/resnet50", "tied_block(blocks=2)", lc.TiedBlock(), 1, (3, 224, 224)),
    ("timm/resnet50", "split(ratio=0.5)", lc.Split(), 1, (3, 224, 224)),
    ("timm/mobilenetv2_100", "tied_block(blocks=2)", lc.TiedBlock(), 1, (3, 224, 224)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runtime", default="eager")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    rows: list[dict[str, object]] = []
    for name, label, method, batch, size in CASES:
        dense = lc.create_model(name).eval()
        stem = next(key for key, module in dense.named_modules() if isinstance(module, torch.nn.Conv2d))
        plan = lc.plan(dense, method, exclude=stem, input_size=size)
        lean = lc.convert(dense, plan).eval()
        with threads_set(given.threads):
            times = layer_times(plan, batch=batch, threads=given.threads, runtime=given.runtime)
            found = network_times(dense, lean, times, size, batch=batch, threads=given.threads, runtime=given.runtime)
        found["predicted_off"] = found.pop("predicted_off_pct") / 100
        rows.append({"network": name, "method": label, "batch": batch, **found})
        print(*rows[-1].values(), flush=True)
    head = provenance(shlex.join(["python", "benchmarks/prediction.py", *sys.argv[1:]]))
    shared = {"threads": given.threads, "runtime": given.runtime, "precision": "float32", "layout": "channels_last"}
    write_json(given.out, {**head, "kind": "prediction", "settings": shared, "n": 1, "seeds": [0], "rows": rows})


if __name__ == "__main__":
    main()
