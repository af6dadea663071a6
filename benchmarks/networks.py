"""Compare lean networks with their dense networks, each in its fastest runtime: ``python benchmarks/networks.py -o FILE``.

There is one table for each pair. The networks are those that the papers call fast, and Torch-Pruning's ResNet-50 at equal MACs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pruned import pruned
from torch import nn

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.core.method import Method
from leanconv.inference.race import OPTIMIZED, Optimized
from leanconv.timing import runtimes
from leanconv.timing.race import AS_IS, as_it_is, race

IMAGENET, CIFAR = (3, 224, 224), (3, 32, 32)
Networks = dict[str, Callable[[], nn.Module]]


def named(name: str, **settings: object) -> Callable[[], nn.Module]:
    return lambda: lc.create_model(name, **settings)


def converted(name: str, method: Method, exclude: Sequence[str]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        dense = lc.create_model(name)
        return lc.convert(dense, lc.plan(dense, method, exclude=exclude))

    return build


STEM, POINTWISE = "conv1", ("conv1", "*.conv1", "*.conv3", "*downsample*")
TIED_16 = named("tied_resnet50_s", base_width=16, blocks=(1, 2, 2, 4))
# Torch-Pruning's ResNet-50 is pruned to the MACs of these networks
PRUNED_TO = ("TiedResNet50-S", "SPConv-ResNet50", "ResNet-50, tied B = 2", "ResNet-50, 3x3 tied B = 4")
PAIRS: dict[str, tuple[tuple[int, int, int], Networks]] = {
    "resnet50": (
        IMAGENET,
        {
            "ResNet-50": named("timm/resnet50"),
            "TiedResNet50-S": named("tied_resnet50_s"),
            "TiedResNet50-S, base width 16": TIED_16,
            "SPConv-ResNet50": named("spconv_resnet50"),
            "ResNet-50, tied B = 2": converted("timm/resnet50", lc.TiedBlock(2), [STEM]),
            "ResNet-50, 3x3 tied B = 4": converted("timm/resnet50", lc.TiedBlock(4), POINTWISE),
        },
    ),
    "resnet34_cifar": (
        CIFAR,
        {
            "ResNet-34 (CIFAR)": named("resnet34_cifar"),
            "ResNet34-S32U1": named("basis_resnet34", shared=32),
            "ResNet34-S16U1": named("basis_resnet34", shared=16),
        },
    ),
    "se": (
        IMAGENET,
        {"SE-ResNet50": named("tied_se_resnet50", blocks=1), "TiedSE-ResNet50": named("tied_se_resnet50")},
    ),
    # the papers' own tables of times: SPConv, Table 2 (batch 64 on a GPU); filter bases, section 4.2 (batch 1)
    "spconv_table2": (
        IMAGENET,
        {
            "ResNet-50": named("timm/resnet50"),
            "SPConv-ResNet50, 1/2": named("spconv_resnet50"),
            "SPConv-ResNet50, 1/4": named("spconv_resnet50", ratio=0.25),
            "Ghost-ResNet50": named("ghost_resnet50"),
            "HetConv-ResNet50": named("het_resnet50"),
            "OctConv-ResNet50": named("oct_resnet50"),
        },
    ),
    "bases_section42": (
        IMAGENET,
        {"ResNet-34": named("timm/resnet34"), "ResNet34-S48U1": named("basis_resnet34_imagenet")},
    ),
}


def with_pruned(networks: dict[str, nn.Module], size: tuple[int, int, int]) -> None:
    """Add ResNet-50 pruned to the MACs of each lean network of `PRUNED_TO`."""
    for label in PRUNED_TO:
        macs = lc.count(networks[label], size).macs
        assert macs is not None
        networks[f"ResNet-50 pruned to {label}"] = pruned("timm/resnet50", macs, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=["resnet50", "resnet34_cifar", "se"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument(
        "--runtimes", nargs="+", default=[name for name in runtimes.RUNTIMES if runtimes.available(name)]
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu", help="cuda: on a GPU, whose runtimes are eager and compile")
    parser.add_argument("--tf32", action="store_true", help="float32 products in tf32, on a GPU")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--pruned", action="store_true", help="Torch-Pruning's ResNet-50 too")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = given.tf32
    rows = []
    for pair in given.pairs:
        size, builders = PAIRS[pair]
        torch.manual_seed(0)
        networks = {label: build().eval() for label, build in builders.items()}
        if given.pruned and pair == "resnet50":
            with_pruned(networks, size)
        counts = {label: lc.count(model, size) for label, model in networks.items()}
        for batch in given.batch:
            example = torch.randn(batch, *size).to(given.device, getattr(torch, given.precision))
            found = race(
                networks, example, names=given.runtimes, forms={AS_IS: as_it_is, OPTIMIZED: Optimized()},
                threads=given.threads, seconds=given.seconds, say=lambda text: print(text, file=sys.stderr, flush=True),
            )  # fmt: skip
            for entry in found:
                counted = counts[entry.network]
                rows.append(
                    {"pair": pair, "batch": batch, "params": counted.params, "macs": counted.macs, **entry.to_json()}
                )
                if entry.latency is not None and entry.best:
                    print(f"{batch:3} {entry.network:40} {entry.runtime:12} {entry.form:10} "
                          f"{entry.latency.median_ms:8.2f} ms {entry.latency.ratio:.2f}", flush=True)  # fmt: skip
            write(given, rows)


def write(given: argparse.Namespace, rows: list[dict[str, object]]) -> None:
    head = provenance(shlex.join(["python", "benchmarks/networks.py", *sys.argv[1:]]))
    head["versions"] |= runtimes.versions()
    settings = {"threads": given.threads, "precision": given.precision, "seconds": given.seconds}
    if given.device != "cpu":
        settings |= {"device": given.device, "tf32": given.tf32}
    rounds = max((int(row.get("rounds") or 0) for row in rows), default=0)  # type: ignore[call-overload]
    write_json(given.out, {**head, "kind": "latency", "settings": settings, "n": rounds, "seeds": [0], "rows": rows})


if __name__ == "__main__":
    main()
