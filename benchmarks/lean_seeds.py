"""Gather searches that differ in the dense network's seed: ``python benchmarks/lean_seeds.py RESULTS.json... -o FILE``.

Each input is a results file of kind "lean", for the same network, images and budget. A row holds the means over the searches that
have this network, and the points of accuracy that it lost in each of them, compared with the dense network of the same search.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance

SAME = ("network", "budget", "methods", "where", "exclude", "data")  # settings that must be equal
ACCURACIES = {"test_top1_pct": "test_top1_lost", "quality": "validation_lost"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="of the dense networks; files of earlier versions lack them"
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    searches = [json.loads(file.read_text()) for file in given.files]
    names = [file.name for file in given.files]
    first = searches[0]["settings"]
    for name, search in zip(names, searches, strict=True):
        for key in SAME:
            if search["settings"][key] != first[key]:
                parser.error(f"{name} has another {key} than {names[0]}; gather searches that differ in the seed alone")
    told = ["--seeds", *map(str, given.seeds)] if given.seeds else []
    head = provenance(shlex.join(["python", "benchmarks/lean_seeds.py", *names, *told, "-o", str(given.out)]))
    settings = {key: first[key] for key in SAME} | {
        "files": names, "machines": [search["machine"]["cpu"] for search in searches], "config": first["config"],
    }  # fmt: skip
    seeds = given.seeds or [
        search["settings"].get("split", search["settings"]["config"])["seed"] for search in searches
    ]
    rows = gathered([search["rows"] for search in searches])
    write_json(
        given.out, head | {"kind": "lean_seeds", "settings": settings, "n": len(seeds), "seeds": seeds, "rows": rows}
    )


def gathered(searches: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each network: counts relative to dense, time relative to dense, and accuracy, over the searches that have it.

    Args:
        searches: the rows of each search, with the dense network first.
    """
    rows = []
    for name in dict.fromkeys(row["network"] for search in searches for row in search):
        pairs = [(search[0], row) for search in searches for row in search if row["network"] == name]
        row: dict[str, Any] = {"network": name, "n": len(pairs)}
        for key in ("params", "macs"):
            row[f"{key}_ratio"] = statistics.mean(own[key] / dense[key] for dense, own in pairs)
        row["latency_ratio"] = statistics.mean(own["ratio"] for _, own in pairs)
        row |= {key: pairs[0][1][key] for key in ("runtime", "batch", "threads")}
        for key, lost in ACCURACIES.items():
            row |= _spread(key, [own[key] for _, own in pairs])
            row |= _spread(lost, [dense[key] - own[key] for dense, own in pairs])
        rows.append(row)
    return rows


def _spread(name: str, values: Sequence[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {name: statistics.mean(values), f"{name}_std": deviation, f"{name}_by_seed": list(values)}


if __name__ == "__main__":
    main()
