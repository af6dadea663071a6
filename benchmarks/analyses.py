"""Run the papers' analyses on networks trained here: ``python benchmarks/analyses.py RUNS -o FILE --figures DIR``.

RUNS is a folder with the run folders of `leanconv compare` and `train` on CIFAR-10: table/ (resnet20 with each method), bases/
(basis_resnet56 with and without the penalty), shard/ (SL2-VGGNet), gradients/ (with --record-gradients) and ranks/ (a sweep
of shared_basis). --digits is a folder with runs of resnet8 on the embedded digits, whose pictures may be published.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

import leanconv as lc
from leanconv import analyse
from leanconv.analyse.images import images_for
from leanconv.analyse.tradeoff import read_tradeoff
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.data import open_data
from leanconv.train.prepared import scores_of

TABLE = {
    "dense": "dense", "tied_block(blocks=2)": "tied_block-blocks=2", "split(ratio=0.5)": "split-ratio=0.5",
    "shared_basis(shared=8)": "shared_basis-shared=8", "depth_shared": "depth_shared-scope=network",
}  # fmt: skip
BASES = {"with the penalty": "basis_resnet56-bases=2", "without": "basis_resnet56-bases=2-penalty_weight=0"}
SHARD = "shard_vgg16_sl2-width=64"
LAYERS = ("layer1.0.conv1", "layer1.2.conv2", "layer2.2.conv2", "layer3.2.conv2")
GRADIENTS = ("neither", "norm", "penalty", "both")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    data = open_data(given.data)
    table = {label: lc.load(given.runs / "table" / folder / "seed0") for label, folder in TABLE.items()}
    seen = images_for(table["dense"], data, given.images)
    images = seen.tensor
    rows: list[dict[str, Any]] = []

    def drawn(name: str, figure: Any, suffix: str = ".svg") -> None:
        analyse.save_figure(figure, given.figures / f"analysis-{name}{suffix}")

    similar = {}
    for label in ("dense", "tied_block(blocks=2)"):
        similar[label] = [analyse.filter_similarity(table[label], images, layer) for layer in LAYERS]
        for found in similar[label]:
            said = found.to_json()
            rows.append(
                {"what": "filters", "network": label} | {k: said[k] for k in ("layer", "mean", "q25", "median", "q75")}
            )
            print(rows[-1], flush=True)
    drawn("filters", analyse.plot_histograms(similar))

    bases = {label: analyse.basis_similarity(lc.load(given.runs / "bases" / f / "seed0")) for label, f in BASES.items()}
    for label, groups in bases.items():
        for index, group in enumerate(groups):
            means = {what: group.mean(what) for what in ("shared", "components", "coefficients")}
            rows.append({"what": "bases", "network": label, "group": index + 1, **means})
    drawn("bases", analyse.plot_bases({label: groups[1:] for label, groups in bases.items()}), ".png")

    shard = lc.load(given.runs / "shard" / SHARD / "seed0")
    extremes = analyse.blending_extremes(shard)
    for found in extremes:
        rows.append({"what": "blending", "layer": found.layer, "least_used": float(found.unused().max())})
    drawn("blending", analyse.plot_extremes(extremes))
    curve = analyse.pruning_curve(shard, lambda pruned: scores_of(pruned, data, seen.task).top1_pct)
    rows += [{"what": "pruning", **point} for point in curve.to_json()["points"]]
    drawn("pruning", curve.plot().figure)

    for label, model in table.items():
        if label != "dense":
            continue
        for found in analyse.redundancies(model, images):
            rows.append(
                {
                    "what": "maps",
                    "network": label,
                    "layer": found.layer,
                    "maps": len(found.of),
                    "redundant": found.share,
                }
            )

    for stage in (1, 2, 3):
        layers = [f"layer{stage}.{block}.conv{number}" for block in (1, 2) for number in (1, 2)]
        found = analyse.spectrum(table["dense"], layers)
        ranks = {f"rank_{round(100 * e)}": found.rank(e) for e in (0.9, 0.95, 0.99)}
        shape = {"filters": found.shape[0], "inputs": found.shape[1]}
        rows.append({"what": "spectrum", "layers": len(layers), "stage": stage, **shape, **ranks})

    flows = {name: analyse.read_gradients(given.runs / "gradients" / name) for name in GRADIENTS}
    for name, flow in flows.items():
        for tensor in flow.to_json()["tensors"]:
            rows.append(
                {
                    "what": "gradients",
                    "network": name,
                    "tensor": tensor["name"],
                    "max": tensor["max"],
                    "mean": tensor["mean"],
                }
            )
    drawn("gradients", analyse.plot_gradients(flows))

    ranks = read_tradeoff(given.runs / "ranks")
    rows += [{"what": "ranks", **point} for point in ranks.to_json()["points"]]
    drawn("ranks", ranks.plot())

    shown = {
        label: lc.load(given.digits / TABLE[label] / "seed0")
        for label in ("dense", "tied_block(blocks=2)", "split(ratio=0.5)")
    }
    digits = images_for(shown["dense"], open_data("digits"))
    numbers = digits.tensor
    cams = {label: analyse.grad_cam(model, numbers) for label, model in shown.items()}
    drawn("cam", analyse.plot_cams(digits.pictures(), cams))
    drawn("maps", analyse.redundancy(shown["dense"], numbers, "layer2.0.conv2").plot())

    head = provenance(shlex.join(["python", "benchmarks/analyses.py", *sys.argv[1:]]))
    settings = {"data": given.data, "images": given.images, "threads": torch.get_num_threads()}
    write_json(given.out, {**head, "kind": "analysis", "settings": settings, "n": 1, "seeds": [0], "rows": rows})


if __name__ == "__main__":
    main()
