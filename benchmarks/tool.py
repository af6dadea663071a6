"""Time leanconv itself: ``python benchmarks/tool.py -o FILE``; the exit code is 1 if a step takes longer than its budget.

The steps are the import, ``--help``, `inspect`, `convert`, `save`, `load` and `optimize(measured=False)` on timm's ResNet-50, and
on chains of 200 to 2,000 convolutions, whose times should grow with their length.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import leanconv as lc
from leanconv.analyse.converted import inspect
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance

# seconds on two quiet cores; a step that took longer twice would be noticed by a user
BUDGETS = {
    "import": 1.0, "help": 1.5, "inspect timm/resnet50": 12.0, "build": 3.0, "plan": 3.0, "convert": 3.0, "save": 1.5,
    "load": 4.0, "optimize": 12.0,
}  # fmt: skip
PER_LAYER = {
    "plan": 6.0,
    "convert": 6.0,
    "inspect": 15.0,
    "save": 3.0,
    "load": 15.0,
    "optimize": 30.0,
}  # ms, for chains


def chain(length: int, width: int = 8) -> nn.Module:
    """A chain of `length` 3x3 convolutions, each with a norm and a ReLU, in blocks of 50 layers."""
    made = nn.Sequential()
    for start in range(0, length, 50):
        layers = [
            layer
            for _ in range(min(50, length - start))
            for layer in (nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        ]
        made.add_module(f"block{start // 50}", nn.Sequential(*layers))
    return made


def steps_of(
    dense: nn.Module, first: str, size: tuple[int, int, int], build: Callable[[], nn.Module]
) -> dict[str, float]:
    """Seconds of each step, each once, on a network whose layer `first` stays dense."""
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        made = call()
        seconds[name] = time.perf_counter() - began
        return made

    plan = timed("plan", lambda: lc.plan(dense, lc.TiedBlock(2), exclude=first, input_size=size))
    lean = timed("convert", lambda: lc.convert(dense, plan))
    timed("inspect", lambda: inspect(dense, lc.TiedBlock(2), input_size=size))
    with tempfile.TemporaryDirectory() as folder:
        timed("save", lambda: lc.save(lean, Path(folder) / "net"))
        base = build()
        timed("load", lambda: lc.load(Path(folder) / "net", base))
    timed("optimize", lambda: lc.optimize(lean.eval(), torch.randn(1, *size), measured=False))
    return seconds


def process(arguments: list[str]) -> float:
    """Seconds of a Python process, the faster of two."""
    found = []
    for _ in range(2):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - began)
    return min(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", nargs="+", type=int, default=[200, 500, 1000, 2000])
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []

    def note(network: str, step: str, seconds: float, budget: float | None, layers: int | None = None) -> None:
        late = budget is not None and seconds > budget
        rows.append(
            {
                "network": network,
                "step": step,
                "layers": layers,
                "step_seconds": seconds,
                "budget_seconds": budget,
                "late": late,
            }
        )
        print(f"{network:16} {step:22} {seconds:8.3f} s of {budget} s{' LATE' if late else ''}", flush=True)

    note("", "import", process(["-c", "import leanconv"]), BUDGETS["import"])
    note("", "help", process(["-m", "leanconv", "--help"]), BUDGETS["help"])
    inspected = process(["-m", "leanconv", "inspect", "timm/resnet50", "-m", "tied_block(blocks=2)", "--json"])
    note("timm/resnet50", "inspect timm/resnet50", inspected, BUDGETS["inspect timm/resnet50"])

    def resnet() -> nn.Module:
        return lc.create_model("timm/resnet50").eval()

    began = time.perf_counter()
    dense = resnet()
    note("timm/resnet50", "build", time.perf_counter() - began, BUDGETS["build"])
    for step, seconds in steps_of(dense, "conv1", (3, 224, 224), resnet).items():
        note("timm/resnet50", step, seconds, BUDGETS.get(step))
    for length in given.layers:
        made = steps_of(chain(length).eval(), "block0.0", (8, 8, 8), lambda length=length: chain(length))
        for step, seconds in made.items():
            note(f"chain {length}", step, seconds, PER_LAYER[step] * length / 1e3, length)
    head = provenance(shlex.join(["python", "benchmarks/tool.py", *sys.argv[1:]]))
    settings = {"layers": given.layers, "per_layer_budget_ms": json.loads(json.dumps(PER_LAYER))}
    write_json(given.out, {**head, "kind": "tool", "settings": settings, "n": 1, "seeds": [0], "rows": rows})
    return 1 if any(row["late"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
