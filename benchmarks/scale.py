"""Time and memory of long runs, large comparisons and deep networks: ``python benchmarks/scale.py -o FILE``.

- records: a finished run with N lines in metrics.jsonl is read and drawn into its page.
- runs: a comparison of N finished runs, 10 of each method, is made again from their folders, with its report and page.
- convolutions: a chain of N convolutions is planned.

Each is measured in a process of its own, whose processor time and peak of memory above that of its imports are measured too.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent
SEEDS = 10
PROGRAM = """
import json, resource, sys, time
sys.path.insert(0, {benchmarks!r})
import torch, scale
import leanconv.experiment.compare, leanconv.experiment.fit, leanconv.report.figures, lightning.pytorch, matplotlib.figure
torch.set_num_threads(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
start, used = time.perf_counter(), time.process_time()
found = scale.WORK[{work!r}](scale.Path({folder!r}), {count})
seconds, cpu = time.perf_counter() - start, time.process_time() - used
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({{"seconds": seconds, "cpu_seconds": cpu, "bytes": peak - before, "peak_bytes": peak, **found}}))
"""


def images() -> Any:
    """Sixty images of noise in three classes; a run on them takes a fraction of a second."""
    import torch

    from leanconv.data import ImageData, TensorImages

    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (60, 1, 8, 8), generator=draw, dtype=torch.uint8)
    part = TensorImages(pixels, torch.arange(60) % 3)
    return ImageData("noise", ("a", "b", "c"), part, part, (0.5,), (0.25,))


def fitted(folder: Path) -> Any:
    """The finished run in `folder`; it is trained if it is not there."""
    import leanconv as lc

    settings = {"epochs": 1, "batch_size": 32, "threads": 1, "progress": False}
    return lc.fit("resnet8(width=4)", images(), out=folder, resume=True, **settings)


def records(folder: Path, count: int) -> dict[str, Any]:
    """Read the run, and write its page."""
    run = fitted(folder)
    assert len(run.history) == count
    page = folder.parent / "page.html"
    run.report(page)
    return {"file_bytes": (folder / "metrics.jsonl").stat().st_size, "page_bytes": page.stat().st_size}


def write_records(folder: Path, count: int) -> None:
    """A finished run, whose record is repeated with other numbers."""
    import random

    fitted(folder)
    (record,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    draw = random.Random(0)
    with (folder / "metrics.jsonl").open("w") as file:
        for epoch in range(1, count + 1):
            measured = {name: value * draw.uniform(0.9, 1.1) for name, value in record.items() if name != "epoch"}
            file.write(json.dumps({**record, **measured, "epoch": epoch}) + "\n")


def runs(folder: Path, count: int) -> dict[str, Any]:
    """Compare; finished runs are read."""
    import leanconv as lc

    methods = {f"tied {number}": lc.TiedBlock(blocks=2) for number in range(count // SEEDS)}
    found = lc.compare(
        "resnet8(width=4)", images(), methods=methods, seeds=SEEDS, epochs=1, batch_size=32, threads=1, latency=False,
        out=folder, progress=False,
    )  # fmt: skip
    assert sum(row["n"] for row in found.rows) == count, [row.get("failed") for row in found.rows]
    return {"page_bytes": (folder / "report.html").stat().st_size}


def write_runs(folder: Path, count: int) -> None:
    """The runs of the comparison, trained."""
    runs(folder, count)


def convolutions(folder: Path, count: int) -> dict[str, Any]:
    """Build and plan a chain of `count` convolutions."""
    from tool import chain

    import leanconv as lc

    dense = chain(count)
    start, used = time.perf_counter(), time.process_time()
    plan = lc.plan(dense, lc.TiedBlock(2), input_size=(8, 8, 8))
    taken = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}  # without building
    assert sum(len(group.sites) for group in plan.groups) == count
    return taken


WORK = {"records": records, "runs": runs, "convolutions": convolutions}
PREPARE = {"records": write_records, "runs": write_runs}


def measured(work: str, count: int) -> dict[str, Any]:
    """Seconds and bytes of one piece of work in a new process."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        if work in PREPARE:
            PREPARE[work](folder, count)
        program = PROGRAM.format(benchmarks=str(BENCHMARKS), work=work, folder=str(folder), count=count)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {"work": work, "count": count, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--runs", nargs="*", type=int, default=[50, 200])
    parser.add_argument("--convolutions", nargs="*", type=int, default=[500, 1000, 2000])
    parser.add_argument("--note", help="what a reader should know, for example another load on the machine")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    counts = {work: getattr(given, work) for work in WORK}
    rows = []
    for work, asked in counts.items():
        for count in asked:
            rows.append(measured(work, count))
            print(rows[-1], file=sys.stderr)
    from leanconv.core.atomic import write_json
    from leanconv.core.machine import provenance

    head = {**provenance(shlex.join(["python", "benchmarks/scale.py", *sys.argv[1:]])), "kind": "scale"}
    notes = {"notes": given.note} if given.note else {}
    write_json(given.out, {**head, "settings": counts | {"seeds": SEEDS}, "n": 1, "seeds": [], **notes, "rows": rows})


if __name__ == "__main__":
    main()
