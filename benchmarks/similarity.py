"""How alike a network's filters are, over depth: ``python benchmarks/similarity.py LABEL:RUN... --data cifar10 -o FILE``.

Each network is looked at with both means, of patterns and of cosines, at the outputs of four blocks (TBC, Figs. 1 and 9).
--figure writes the histograms of the mean of patterns.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any, get_args

import torch

import leanconv as lc
from leanconv.analyse.similarity import Average
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.data import open_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="LABEL:RUN")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--layer", action="append", default=[])
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--note", default="")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    data = open_data(given.data)
    networks = {label: lc.load(folder) for label, _, folder in (one.rpartition(":") for one in given.runs)}
    rows: list[dict[str, Any]] = []
    for average in get_args(Average):
        found = lc.analyse.look("filters", networks, data, layers=given.layer, count=given.images, average=average)
        for label, layers in found.found.items():
            for layer in layers:
                shown = {key: layer[key] for key in ("layer", "mean", "q25", "median", "q75")}
                rows.append({"what": "filters", "network": f"{label}, mean of {average}", "average": average} | shown)
        if average == "patterns" and given.figure is not None:
            found.save(given.figure)
    head = provenance(shlex.join(["python", "benchmarks/similarity.py", *sys.argv[1:]]))
    settings = {"data": given.data, "images": given.images, "threads": torch.get_num_threads()}
    more = {"notes": given.note} if given.note else {}
    write_json(
        given.out, {**head, "kind": "analysis", "settings": settings, "n": 1, "seeds": [0], "rows": rows, **more}
    )


if __name__ == "__main__":
    main()
