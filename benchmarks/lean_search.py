"""The seconds and the memory of `leanconv lean`, by stage: ``python benchmarks/lean_search.py -o FILE``.

The network has random weights, the images are noise, and nothing is trained, so the accuracies mean nothing. What is measured is
the search itself: the default number of candidates, starts and images, the conversion, the export and the final times. The exit
code is 1 if it takes over 20 minutes or 8 GiB.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance

IMAGES, TEST = 320, 16  # the search asks for at most 256 images of ResNet-50; a tenth is held out
MINUTES, GIB = 20, 8


class Clock:
    """Adds up the seconds of each stage. An event comes after its step, so it ends the time of this step."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, str], dict[str, Any]] = {}
        self.start, self.stage = 0, ""
        self.last = time.perf_counter(), time.process_time()

    def __call__(self, event: Any) -> None:
        stage = getattr(event, "stage", None)
        if stage is None:
            return
        if stage == "measure" and self.stage != "measure":
            self.start += 1
        self.stage, now = stage, (time.perf_counter(), time.process_time())
        new = {"start": self.start, "stage": stage, "seconds": 0.0, "cpu_seconds": 0.0}
        row = self.rows.setdefault((self.start, stage), new)
        row["seconds"] += now[0] - self.last[0]
        row["cpu_seconds"] += now[1] - self.last[1]
        row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # since the program began
        self.last = now
        print(
            f"{row['seconds']:7.1f} s {row['cpu_seconds']:7.1f} s {row['peak_mib']:7.0f} MiB  {event}",
            file=sys.stderr,
            flush=True,
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="timm/resnet50")
    parser.add_argument("--side", type=int, default=224, help="pixels")
    parser.add_argument("--budget", default="time=0.5")
    parser.add_argument("--runtime", default="openvino")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args(argv)

    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    model = lc.create_model(given.network, num_classes=10).eval()
    parts = [
        (torch.randint(0, 256, (count, 3, given.side, given.side), dtype=torch.uint8), torch.arange(count) % 10)
        for count in (IMAGES, TEST)
    ]
    clock, begin = Clock(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = lc.lean(
            model, (parts[0], parts[1]), given.budget, folder, runtime=given.runtime, threads=given.threads, recovery_epochs=0,
            controls=(), progress=clock, cache=Path(folder) / "times.json",
        )  # fmt: skip
    seconds = time.perf_counter() - begin
    rows = [*clock.rows.values()]
    total = {
        "start": None, "stage": "all", "seconds": seconds, "cpu_seconds": sum(row["cpu_seconds"] for row in rows),
        "peak_mib": max(row["peak_mib"] for row in rows),
    }  # fmt: skip
    settings = {"network": given.network, "side": given.side, "budget": given.budget, "runtime": given.runtime}
    write_json(given.out, {
        **provenance(shlex.join(["python", "benchmarks/lean_search.py", *(argv or sys.argv[1:])])),
        "kind": "search", "settings": settings | {"threads": given.threads, "starts": found.summary["starts"]},
        "n": 1, "seeds": [0], "rows": [*rows, total],
        "notes": "Random weights, noise as images, no training. Start 1 is the dense network, the others have fewer channels. "
        "cpu_seconds: of all threads. peak_mib: the largest resident memory of the process so far.",
    })  # fmt: skip
    print(found)
    return int(seconds > 60 * MINUTES or total["peak_mib"] > 1024 * GIB)


if __name__ == "__main__":
    sys.exit(main())
