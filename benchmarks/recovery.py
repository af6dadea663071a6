"""Measure how a lean network recovers: ``python benchmarks/recovery.py -o FILE``.

A dense network is trained with its recipe, and converted with weights fitted to the dense ones. Each row trains this lean network
for the same few epochs: on the labels alone, or with the dense network as the teacher. Some rows first train block by block,
which takes time too; as a control, other rows train without blocks for `--longer` epochs. A seed is one training of the dense
network, from which all rows of this seed start. The test part is read once for each network.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import nn

import leanconv as lc
from leanconv.conversion.methods import parse_method
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.data import ImageData, open_data
from leanconv.experiment.series import slug
from leanconv.experiment.settings import settings_for
from leanconv.train import TrainConfig, fit, recover
from leanconv.train.prepared import scores_of, task_on

LONGER = ", longer"
WAYS: dict[str, dict[str, Any] | None] = {
    "labels": None,
    "kl": {"distill": "kl"},
    "kl_standardised": {"distill": "kl_standardised"},
    "dist": {"distill": "dist"},
    "features": {"distill": "features"},
    "blocks + kl": {"distill": "kl"},
    "blocks + kl_standardised": {"distill": "kl_standardised"},
    f"labels{LONGER}": None,
    f"kl_standardised{LONGER}": {"distill": "kl_standardised"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet8")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--method", default="tied_block(blocks=2)")
    parser.add_argument("--dense-epochs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--longer", type=int, default=11)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--block-steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    data = open_data(given.data, root=given.data_root)
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            for name, scores in measured(given, data, seed, Path(folder) / str(seed)).items():
                found.setdefault(name, []).append(scores)
                print(seed, name, *(f"{key} {value:.2f}" for key, value in scores.items()), flush=True)
    rows = [{"recovery": name, **_row(scores)} for name, scores in found.items()]
    head = provenance(shlex.join(["python", "benchmarks/recovery.py", *sys.argv[1:]]))
    settings = {name: value for name, value in vars(given).items() if name not in ("out", "data_root")}
    seeds = list(range(given.seeds))
    write_json(
        given.out, {**head, "kind": "accuracy", "settings": settings, "n": len(seeds), "seeds": seeds, "rows": rows}
    )


def measured(given: argparse.Namespace, data: ImageData, seed: int, folder: Path) -> dict[str, dict[str, float]]:
    """The scores of the dense network, of the converted network, and of each way to train it."""
    run = lc.fit(given.network, data, epochs=given.dense_epochs, seed=seed, threads=1, progress=False)
    dense = run.network
    first = settings_for(None, data, {"epochs": given.epochs, "lr": given.lr, "seed": seed, "threads": 1})
    plan = lc.plan(dense, parse_method(given.method), exclude="conv1")
    lean = lc.convert(dense, plan, "fit")
    found = {"dense": _scores(dense, data, first), "converted": _scores(lean, data, first)}
    for name, settings in WAYS.items():
        network, began = copy.deepcopy(lean), time.perf_counter()
        config = first.replace(epochs=given.longer) if name.endswith(LONGER) else first
        where = folder / slug(name)
        if settings is None:
            fit(network, data, config, where, progress=False)
        else:
            steps = given.block_steps if "blocks" in name else 0
            recover(network, dense, data, config.replace(**settings), where, progress=False, block_steps=steps)
        found[name] = _scores(network, data, config) | {"train_seconds": time.perf_counter() - began}
    return found


def _scores(network: nn.Module, data: ImageData, config: TrainConfig) -> dict[str, float]:
    held_out = data.split(config.validation, config.seed)[1]
    task = task_on(network, data)
    parts = {"val_top1_pct": held_out, "test_top1_pct": None}
    return {name: scores_of(network, data, task, part).top1_pct for name, part in parts.items()}


def _row(scores: list[dict[str, float]]) -> dict[str, Any]:
    """Means and standard deviations over the seeds."""
    row: dict[str, Any] = {"n": len(scores)}
    for name in scores[0]:
        values = [one[name] for one in scores]
        row[name] = statistics.mean(values)
        if name.endswith("_pct"):
            row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
            row[f"{name}_by_seed"] = values
    return row


if __name__ == "__main__":
    main()
