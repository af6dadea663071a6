"""Collect finished runs into a results file: ``python benchmarks/trained.py RUN... --recipe NAME -o FILE``.

Runs that differ in their seed alone make one row, with the mean and the standard deviation over the seeds. Run it on the machine
that trained them: the file names this machine.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
from pathlib import Path
from typing import Any

from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--note", default=None, help="what a reader must know of these runs")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    groups: dict[str, list[Path]] = {}
    for folder in given.runs:
        settings = _identity(folder)  # without the seed
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(folder)
    rows = [_row(folders, given.recipe) for folders in groups.values()]
    names = [run.name for run in given.runs]  # a results file holds no paths
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    found = {
        **provenance(
            shlex.join(["python", "benchmarks/trained.py", *names, "--recipe", given.recipe, "-o", str(given.out)])
        ),
        "kind": "training",
        "settings": {"runs": [json.loads(key) for key in groups]},
        "n": min(row["n"] for row in rows),
        "seeds": seeds,
        "rows": rows,
    }
    write_json(given.out, found | ({} if given.note is None else {"note": given.note}))


def _identity(folder: Path) -> dict[str, Any]:
    run = json.loads((folder / "run.json").read_text())
    return {"target": run["target"], "method": run["method"], "data": run["data"]["name"], "train": dict(run["train"])}


def _row(folders: list[Path], recipe: str) -> dict[str, Any]:
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    histories = [[json.loads(line) for line in (folder / "metrics.jsonl").open()] for folder in folders]
    identity = _identity(folders[0])
    method = "" if identity["method"] == "dense" else f", {identity['method']}"
    test = [found["test"]["top1_pct"] for found in summaries]
    validation = [found["train"]["val_top1_pct"] for found in summaries]
    shown = ("epoch", "lr", "train_loss", "val_loss", "val_top1_pct")
    return {
        "network": identity["target"] + method,
        "recipe": recipe,
        "epochs": summaries[0]["train"]["epochs"],
        "params": summaries[0]["counts"]["params"],
        "macs": summaries[0]["counts"]["macs"],
        "val_top1_pct": _mean(validation),
        "test_top1_pct": _mean(test),
        "test_top1_std": round(statistics.stdev(test), 3) if len(test) > 1 else None,
        "train_minutes": round(statistics.mean(found["train"]["train_seconds"] for found in summaries) / 60, 1),
        "images_per_s": round(statistics.mean(found["train"]["images_per_s"] for found in summaries)),
        "n": len(folders),
        "seeds": [found["seed"] for found in summaries],
        "runs": [{"test_top1_pct": one, "val_top1_pct": other} for one, other in zip(test, validation, strict=True)],
        "history": [{name: record[name] for name in shown if name in record} for record in histories[0]],
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.mean(known), 3) if known else None


if __name__ == "__main__":
    main()
