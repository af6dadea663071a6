"""Measure channel orders and pruning.

``python benchmarks/channels.py orders -o FILE`` puts the channels of many networks in a random order and compares outputs.
``python benchmarks/channels.py trained RUN --data DATA -o FILE`` takes a trained network. It shows the loss and the accuracy of
one-shot fits in the present and in the chosen order, and the accuracy after pruning by each criterion. Nothing is trained; the
statistics of batch norms are re-estimated on training images.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.data import open_data
from leanconv.search.order import order_loss
from leanconv.train.prepared import labelled_batches, scores_of, task_on
from tests.conversion.permuted import permuted_error, unsettled

SMALL = {"timm/vit_tiny_patch16_224", "timm/mixer_s32_224"}  # take other sizes by a setting
NETWORKS = (
    *("resnet20", "timm/resnet18", "timm/resnet50", "timm/seresnet18", "timm/ecaresnet26t", "timm/skresnet18"),
    *("timm/resnest14d", "timm/resnext50_32x4d", "timm/res2net50_26w_4s", "timm/regnetx_002", "timm/regnety_002"),
    *("timm/densenet121", "timm/dpn48b", "timm/dla34", "timm/hrnet_w18_small", "timm/vgg11_bn", "timm/inception_v3"),
    *("timm/mobilenetv2_050", "timm/mobilenetv3_small_100", "timm/mobilenetv4_conv_small", "timm/efficientnet_b0"),
    *("timm/ghostnet_050", "timm/ghostnetv2_100", "timm/rexnet_100", "timm/mnasnet_small", "timm/ese_vovnet19b_dw"),
    *("timm/cspresnet50", "timm/repvgg_a0", "timm/convnext_atto", "timm/convnextv2_atto", "timm/poolformer_s12"),
    *(
        "timm/fastvit_t8",
        "timm/edgenext_xx_small",
        "timm/mobilevit_xxs",
        "timm/vit_tiny_patch16_224",
        "timm/mixer_s32_224",
    ),
    *("timm/resnetv2_50", "torchvision/shufflenet_v2_x1_0", "torchvision/googlenet", "torchvision/squeezenet1_1"),
)
SIDES = {"timm/inception_v3": 96}
METHODS = {
    "tied_block(blocks=2)": lc.TiedBlock(2),
    "tied_block(blocks=4)": lc.TiedBlock(4),
    "grouped(groups=2)": lc.Grouped(2),
}


def orders(given: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each network: the change of its output in float64, relative to the spread of the output."""
    rows = []
    for name in NETWORKS:
        side = SIDES.get(name, 64)
        torch.manual_seed(0)
        model = lc.create_model(name, **({"img_size": side} if name in SMALL else {}))
        error, graph = permuted_error(unsettled(model), (3, side, side))
        channels = sum(found.size for found in graph.sets)
        row = {
            "network": name,
            "error": error,
            "sets": len(graph.sets),
            "channels": channels,
            "layers_fixed": len(graph.fixed),
        }
        rows.append(row)
        print(*row.values(), flush=True)
    return rows, {"input_side": 64, "dtype": "float64", "weights": "random"}


def trained(given: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of one-shot fits and of pruned networks."""
    model = lc.load(given.run)
    images = open_data(given.data, root=given.data_root)
    task = task_on(model, images)

    batches = labelled_batches(images, task, given.images)

    def top1(network: nn.Module) -> float:
        return scores_of(_reestimated(network, batches), images, task).top1_pct

    rows: list[dict[str, Any]] = [{"network": "dense", "change": "none", "top1_pct": top1(model)}]
    stem = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    for label, method in METHODS.items():
        plan = lc.plan(model, method, exclude=stem)
        ordered = lc.permute_channels_(copy.deepcopy(model), lc.choose_orders(model, plan))
        for change, network in (("present order", model), ("chosen order", ordered)):
            loss = order_loss(network, plan)
            row = {"network": label, "change": change, "fit_error": sum(loss.values()) / len(loss)}
            rows.append(row | {"top1_pct": top1(lc.convert(network, plan, "fit").eval())})
            print(*rows[-1].values(), flush=True)
    pruned = [(criterion, "uniform") for criterion in ("random", "magnitude", "taylor", "activation", "reconstruction")]
    for criterion, allocate in [*pruned, ("reconstruction", "scores")]:
        for share in (0.75, 0.5, 0.25):
            thin = lc.prune(model, share, criterion, align=given.align, allocate=allocate, data=batches)
            change = criterion if allocate == "uniform" else f"{criterion}, widths by scores"
            row = {"network": f"pruned to {share} of the MACs", "change": change, "macs": lc.count(thin).macs}
            rows.append(row | {"top1_pct": top1(thin.eval())})
            print(*rows[-1].values(), flush=True)
    used = {"run": given.run.name, "data": images.name, "images": given.images, "align": given.align}
    return rows, used


@torch.no_grad()
def _reestimated(network: nn.Module, batches: Any) -> nn.Module:
    """A copy in eval mode whose batch norms have the mean statistics of the batches."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches
            module.train()
    for images, _ in batches:
        network(images)
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["orders", "trained"])
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--align", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    rows, settings = orders(given) if given.what == "orders" else trained(given)
    words = ["RUN" if given.run is not None and word == str(given.run) else word for word in sys.argv[1:]]
    head = provenance(shlex.join(["python", "benchmarks/channels.py", *words[: words.index("-o")], "-o", "FILE"]))
    write_json(given.out, {**head, "kind": "channels", "settings": settings, "n": 1, "seeds": [0], "rows": rows})


if __name__ == "__main__":
    main()
