"""Train what the papers claim, at a small scale: ``python benchmarks/papers.py SET --data cifar10 --runs DIR -o FILE``.

The sets: "bases" (the penalty and the initial weights of the filter bases), "components" (several numbers s and u of shared and
unique components, as in Fig. 4 of the filter bases), "shardnet" (accuracy against compression, as in ShardNet's Figs. 2 and 3),
"tied" (ResNet-20, dense and tied, whose filters `benchmarks/similarity.py` compares), "vgg" (a VGG-like network for the same),
and "pruning" (a trained ResNet-20, trained further as it is and after structured pruning; "tied" trains it before). The
networks without residual blocks take the strong recipe `cifar_speed`. Finished runs in DIR are read back. With ``--data digits``
the sets train on the embedded digits, in a minute or two on a quiet core. Rows of a set are trained for equally many epochs,
which are few: they show an order, not a final accuracy.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import leanconv as lc
from leanconv.core.atomic import write_json

COMPONENTS = ((16, 1), (32, 1), (64, 1), (16, 8), (32, 8), (16, 16), (0, 32))
SETS: dict[str, tuple[list[str], list[str] | None, str]] = {  # networks, methods, recipe
    "bases": (
        [
            "basis_resnet32(shared=8)",
            "basis_resnet32(shared=8,penalty_unique=True)",
            "basis_resnet32(shared=8,penalty_weight=0)",
            "basis_resnet32(shared=8,init='release')",
        ],
        None,
        "cifar_fast",
    ),
    "shardnet": (
        [
            f"{name}(width={width})"
            for width in (16, 24, 32)
            for name in ("shard_vgg16_e", "shard_vgg16", "shard_vgg16_s")
        ],
        None,
        "cifar_speed",
    ),
    "components": (
        ["fast_vgg(width=0.5)"],
        ["dense", *(f"shared_basis(shared={s},unique={u},growth=1)" for s, u in COMPONENTS)],
        "cifar_speed",
    ),
    "tied": (["resnet20"], ["dense", "tied_block(blocks=2)"], "cifar_fast"),
    "vgg": (["fast_vgg(width=0.5)"], ["dense"], "cifar_speed"),
    "pruning": ([], ["dense", "pruned(macs=0.72,align=1)"], "cifar_fast"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--note", default="")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    networks, methods, recipe = SETS[given.set]
    models: Any = networks
    if given.set == "pruning":
        models = str(given.runs / "tied" / "dense" / "seed0")
    settings: dict[str, Any] = {"epochs": given.epochs, "validation": 0.0, "threads": 1}
    if given.data == "digits":
        recipe = "digits_speed" if recipe == "cifar_speed" else "quick_digits"
    elif given.set == "pruning":
        settings["lr"] = 0.1
    found = lc.compare(
        models, given.data, recipe, given.runs / given.set, methods=methods, latency=False, seeds=given.seeds, **settings,
        command=shlex.join(["python", "benchmarks/papers.py", *sys.argv[1:]]),
    )  # fmt: skip
    print(found)
    write_json(given.out, found.to_json() | ({"notes": given.note} if given.note else {}))


if __name__ == "__main__":
    main()
