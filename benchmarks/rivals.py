"""Time lean ResNets beside their rivals, all in one interleaved run: ``python benchmarks/rivals.py -o FILE``.

Each batch size is one run, and FILE is written after it. The same command continues with the batch sizes that FILE does not
hold yet. A row has the ImageNet accuracy that was published for the network at 224 pixels, with its source (rivals.json). Most
of these come from longer training than the papers of the lean networks used.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.conversion.plan import Rule
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.inference.race import OPTIMIZED, Optimized
from leanconv.search.pruning import prune
from leanconv.timing import runtimes
from leanconv.timing.race import AS_IS, Made, as_it_is, race

SIZE = (3, 224, 224)
PUBLISHED = Path(__file__).with_suffix(".json")
Build = Callable[[], nn.Module]
MOBILENET, CONVNEXT = "timm/mobilenetv4_conv_medium", "timm/convnext_tiny"


def named(name: str, **settings: Any) -> Build:
    return lambda: lc.create_model(name, **settings)


def converted(name: str, method: lc.Method, **chosen: Any) -> Build:
    def build() -> nn.Module:
        dense = lc.create_model(name)
        return lc.convert(dense, lc.plan(dense, method, exclude=("conv1",), **chosen))

    return build


def modern(name: str, method: lc.Method | Sequence[Rule], exclude: Sequence[str]) -> Build:
    """A network of 1x1 convolutions or linear layers, made lean to 0.6 of its MACs with whole vectors."""

    def build() -> nn.Module:
        dense = lc.create_model(name)
        plan = lc.plan(dense, method, exclude=exclude, input_size=SIZE, include="linear", align=16)
        return lc.convert(dense, plan)

    return build


def pruned(share: float) -> Build:
    """ResNet-50 without its smallest filters, with this share of its MACs; `leanconv prune` writes such a network."""
    return lambda: prune(lc.create_model("timm/resnet50"), macs=share, align=16)


NETWORKS: dict[str, Build] = {
    "ResNet-50": named("timm/resnet50"),
    "TiedResNet50-S": named("tied_resnet50_s"),
    "TiedResNet50-S, aligned": named("tied_resnet50_s_aligned"),
    "SPConv-ResNet50": named("spconv_resnet50"),
    "SPConv-ResNet50, static gate": named("spconv_resnet50_static"),
    "ResNet-50, tied B = 2": converted("timm/resnet50", lc.TiedBlock(2)),
    "ResNet-50, partial 1/2": converted("timm/resnet50", lc.PartialConv(0.5), align=16),
    "ResNet-50, pruned to 0.62": pruned(0.62),
    "ResNet-50, pruned to 0.51": pruned(0.51),
    "ecaresnet50d_pruned": named("timm/ecaresnet50d_pruned"),
    "ResNeXt-50 32x4d": named("timm/resnext50_32x4d"),
    "RepViT-M1.1": named("timm/repvit_m1_1"),
    "MobileNetV4-conv-medium": named(MOBILENET),
    "MobileNetV4-conv-medium, tied, lean to 0.6": modern(MOBILENET, lc.TiedBlock(2), ("conv_stem",)),
    "MobileNetV4-conv-medium, low rank, lean to 0.6": modern(MOBILENET, lc.LowRank(0.62), ("conv_stem",)),
    "ConvNeXt-tiny": named(CONVNEXT),
    # some layers stay dense, so that the two blocks of channels mix
    "ConvNeXt-tiny, tied, lean to 0.6": modern(
        CONVNEXT, lc.TiedBlock(2), ("stem.*", "*.downsample.*", "stages.2.blocks.0.*", "stages.2.blocks.8.*")
    ),
    "ConvNeXt-tiny, low rank, lean to 0.6": modern(
        CONVNEXT, [("stages.[03].*", lc.LowRank(0.55)), ("*", lc.LowRank(0.63))], ("stem.*",)
    ),
    "CPUBone-B1": named("timm/cpubone_b1_bfrobust"),
    "EfficientNet-B0": named("timm/efficientnet_b0"),
}


def torch_pruning(share: float) -> Build:
    """ResNet-50 pruned by Torch-Pruning, which must be installed."""

    def build() -> nn.Module:
        from pruned import pruned as by_torch_pruning

        macs = lc.count(lc.create_model("timm/resnet50"), SIZE).macs
        assert macs is not None
        return by_torch_pruning("timm/resnet50", int(share * macs), SIZE)

    return build


def folded(network: nn.Module, example: Tensor, runtime: str, threads: int) -> Made:
    """The network with its layers folded and its default forms, which takes seconds and not minutes."""
    return Made(lc.optimize(network, example, measured=False), {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--runtime", choices=("openvino", "onnxruntime", "eager"), default="openvino")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing, for each batch size")
    parser.add_argument("--measured", action="store_true", help="measure the forms of each layer: some minutes more")
    parser.add_argument("--torch-pruning", action="store_true", help="Torch-Pruning's ResNet-50 at 0.62 and 0.51 too")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    chosen = {label: NETWORKS[label] for label in given.networks}
    if given.torch_pruning:
        chosen |= {f"ResNet-50 by Torch-Pruning, {share}": torch_pruning(share) for share in (0.62, 0.51)}
    rows = continued(given)
    left = [batch for batch in given.batch if batch not in {row["batch"] for row in rows}]
    if not left:
        print(f"{given.out} holds all batch sizes; give another file to measure again")
        return
    torch.manual_seed(0)
    networks = {label: build().eval() for label, build in chosen.items()}
    counts = {label: lc.count(network, SIZE) for label, network in networks.items()}
    published = json.loads(PUBLISHED.read_text())
    forms = {AS_IS: as_it_is, OPTIMIZED: Optimized() if given.measured else folded}
    for batch in left:
        found = race(
            networks, torch.randn(batch, *SIZE), names=[given.runtime], forms=forms, threads=given.threads,
            seconds=given.seconds, say=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
        for entry in found:
            counted, known = counts[entry.network], published["networks"].get(entry.network, {})
            row = {"batch": batch, "params": counted.params, "macs": counted.macs, **entry.to_json()}
            row |= {"published_top1_pct": known.get("top1_pct"), "published_px": known.get("px")}
            rows.append(row | {"published_source": published.get(known.get("source"), known.get("source"))})
            if entry.latency is not None and entry.best:
                speed = batch * (counted.macs or 0) / entry.latency.median_ms / 1e6
                print(f"{batch:3} {entry.network:32} {entry.form:10} {entry.latency.median_ms:8.2f} ms "
                      f"{entry.latency.ratio:.2f} {speed:6.0f} GMAC/s", flush=True)  # fmt: skip
        write(given, rows)


def continued(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows that FILE has already, if they were measured with the same settings."""
    if not given.out.is_file():
        return []
    before = json.loads(given.out.read_text())
    if before["settings"] != settings_of(given):
        raise SystemExit(f"{given.out} was measured with {before['settings']}; give another file or the same settings")
    rows: list[dict[str, Any]] = before["rows"]
    return rows


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    names = ("threads", "runtime", "seconds", "measured", "torch_pruning", "networks")
    return {"precision": "float32", "input_size": list(SIZE)} | {name: getattr(given, name) for name in names}


def write(given: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    head = provenance(shlex.join(["python", "benchmarks/rivals.py", *sys.argv[1:]]))
    head["versions"] |= runtimes.versions()
    rounds = max((int(row["rounds"] or 0) for row in rows), default=0)
    said = {"kind": "rivals", "settings": settings_of(given), "n": rounds, "seeds": [0], "rows": rows}
    write_json(given.out, head | said)


if __name__ == "__main__":
    main()
