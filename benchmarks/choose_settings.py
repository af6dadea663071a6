"""Choose a learning rate and a weight decay by validation accuracy. The test part is never read.

The program trains each method with several settings. The setting with the highest mean accuracy is then used for all methods:
`leanconv compare --validation 0` trains with this setting on the whole train part. Finished runs in --out are not repeated, so
several processes can share the work:

    python benchmarks/choose_settings.py resnet20 --data DIR --methods "dense,tied_block" --lrs 0.1 0.3 --epochs 5
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from pathlib import Path

from leanconv.conversion.methods import parse_methods
from leanconv.core.machine import provenance
from leanconv.data import open_data
from leanconv.experiment.job import Job
from leanconv.experiment.series import folder_of
from leanconv.train import fit
from leanconv.train.recipes import cifar_fast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--methods", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--lrs", type=float, nargs="+", default=[cifar_fast().lr])
    parser.add_argument("--weight-decays", type=float, nargs="+", default=[cifar_fast().weight_decay])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    data = open_data(options.data)
    rows = []
    frozen = cifar_fast().replace(epochs=options.epochs, validation=0.1, threads=options.threads)
    for lr, weight_decay in itertools.product(options.lrs, options.weight_decays):
        for label, method in parse_methods(options.methods).items():
            config = frozen.replace(lr=lr, weight_decay=weight_decay)
            job = Job(options.target, method, data, config, keep_stem=True)
            folder = options.out / f"lr{lr:g}-wd{weight_decay:g}" / folder_of(label, config.seed)
            result = fit(job.build(), data, config, folder, resume=True, progress=False)
            score = result.val_top1_pct
            rows.append({"method": label, "lr": lr, "weight_decay": weight_decay, "val_top1_pct": score, "n": 1})
            print(rows[-1], f"{result.images_per_s:.0f} images/s", file=sys.stderr, flush=True)
    result = {
        **provenance(shlex.join(["python", *sys.argv])),
        "kind": "training",
        "settings": {"target": options.target, "data": data.name, "train": frozen.to_json()},
        "n": 1,
        "seeds": [frozen.seed],
        "rows": rows,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
