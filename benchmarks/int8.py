"""Compare int8 with float32 for trained networks: ``python benchmarks/int8.py --data cifar10 -o FILE runs/table/*/seed0``.

Each folder is a run of `leanconv train`, `compare` or `lean`. The int8 ranges come from training images; the accuracy is measured
on the test part.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.core.notes import get_base
from leanconv.data import open_data
from leanconv.deploy.int8 import FORMAT_OF, calibration, compare_int8, quantize
from leanconv.timing.runtimes import versions
from leanconv.train.prepared import task_on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--runtime", choices=FORMAT_OF, default="onnxruntime")
    parser.add_argument("--calibrate", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    data = open_data(given.data, root=given.data_root)
    rows = []
    for folder in given.folders:
        model = lc.load(folder)
        task = task_on(model, data)
        base = get_base(model)
        assert base is not None
        summary = json.loads((folder / "summary.json").read_text())
        method = summary["method"] if "method" in summary else f"lean, {summary['settings']['asked']}"
        with tempfile.TemporaryDirectory() as files:
            made = quantize(model, Path(files) / "net", calibration(data, task, given.calibrate), runtime=given.runtime)
            found = compare_int8(made, data, task, batch=given.batch, threads=given.threads, seconds=given.seconds)
        for row in found:
            rows.append({
                "network": base["name"], "method": method, "runtime": given.runtime, "weights": row.name,
                "file_bytes": row.file_bytes, "loaded_bytes": row.loaded_bytes, "top1_pct": row.top1_pct, "test_images": row.n,
                "latency_ms": row.latency.median_ms, "latency_ms_q25": row.latency.q25_ms,
                "latency_ms_q75": row.latency.q75_ms, "ratio": row.latency.ratio,
                "ratio_q25": row.latency.ratio_q25, "ratio_q75": row.latency.ratio_q75,
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    head = provenance(shlex.join(["python", "benchmarks/int8.py", *sys.argv[1:]]))
    head["versions"] |= versions()
    settings = {name: getattr(given, name) for name in ("data", "runtime", "calibrate", "batch", "threads")}
    write_json(given.out, {**head, "kind": "int8", "settings": settings, "n": 1, "seeds": [0], "rows": rows})


if __name__ == "__main__":
    main()
