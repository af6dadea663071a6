"""Accuracy after each kind of fit, before any training: ``python benchmarks/fits.py RUN --data DATA -o FILE``.

RUN is a trained network. Each method is fitted to the weights, to the outputs on training images, and to the outputs in the
order of the layers; with the norms of the dense network, and with norms that are estimated again. Then the norms are folded
into the convolutions, for a network without norms, and the outputs are repaired. With --methods, only the fits of these are
measured.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import leanconv as lc
from leanconv.conversion.methods import parse_method
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.core.notes import get_base
from leanconv.data import ImageData, open_data
from leanconv.train.prepared import scores_of, some_batches, task_on

METHODS = (
    "tied_block(blocks=2)",
    "grouped(groups=2)",
    "het(part=4)",
    "depth_shared()",
    "shared_basis(shared=0, unique=8, norm=False)",
    "shared_basis(shared=8, unique=1)",
    "soft_shared(templates=1)",
    "lego(splits=2, ratio=0.5)",
    "filter_summary(ratio=0.25)",
    "split(ratio=0.5)",
)
FOLDED = METHODS[:2]
FITS: dict[str, dict[str, bool]] = {
    "weights": {},
    "outputs": {"data": True},
    "sequential": {"data": True, "sequential": True},
}
BATCHES = (8, 32, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=512, help="training images for the fits and the norms")
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--methods", nargs="+", help="these in place of all")
    parser.add_argument("--exclude", default="conv1", help="layers that stay dense")
    parser.add_argument("--note", default="")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    data, model = open_data(given.data), lc.load(given.run).eval()
    methods = tuple(given.methods or METHODS)
    task = task_on(model, data)
    batches = list(some_batches(data.train, data, task, given.images, batch_size=256))
    test = data.test.subset(torch.arange(min(given.test_images, len(data.test))))

    def top1(network: nn.Module) -> float:
        return scores_of(network, data, task, test, batch_size=500).top1_pct

    base = get_base(model)
    named = {
        "network": base["name"] if base else given.run.name,
        "dense_top1_pct": top1(model),
        "test_images": len(test),
    }
    rows: list[dict[str, Any]] = []
    more = () if given.methods else (norms(model, batches, top1), folded(model, batches, top1))
    for found in itertools.chain(fits(model, data, batches, methods, given.exclude, top1), *more):
        rows.append(named | found)
        print(json.dumps(rows[-1]), flush=True)
    chosen = ["--methods", *methods, "--exclude", given.exclude] if given.methods else []
    command = shlex.join(
        ["python", "benchmarks/fits.py", "RUN", "--data", data.name, "--images", str(given.images), *chosen]
    )
    settings = {"data": data.name, "images": given.images, "test_images": len(test)}
    found = {**provenance(command), "kind": "fits", "settings": settings, "n": 1, "seeds": [0], "rows": rows}
    write_json(given.out, found | ({"notes": given.note} if given.note else {}))


def fits(
    model: nn.Module, data: ImageData, batches: list[Tensor], methods: Sequence[str], exclude: str,
    top1: Callable[[nn.Module], float],
) -> Any:  # fmt: skip
    """A row for each method and fit, with the norms of the dense network and with norms that are estimated again."""
    size = (data.channels, *batches[0].shape[2:])
    dense = lc.count(model, size)
    for text in methods:
        plan = lc.plan(model, parse_method(text), exclude=exclude, input_size=size)
        for fit, settings in FITS.items():
            began = time.perf_counter()
            lean = converted(model, plan, batches, settings)
            took = time.perf_counter() - began
            count = lc.count(lean, size)
            before = top1(lean)
            after = top1(lc.reestimate_norms_(lean, batches))
            yield {
                "what": "fits", "method": text, "params_ratio": count.params / dense.params,
                "macs_ratio": (count.macs or 0) / (dense.macs or 1), "fit": fit, "top1_pct": before,
                "reestimated_top1_pct": after, "fit_seconds": took,
            }  # fmt: skip


def norms(model: nn.Module, batches: list[Tensor], top1: Callable[[nn.Module], float]) -> Any:
    """Rows for the batch size of `reestimate_norms_`: with one batch of all images, the statistics are exact."""
    images = torch.cat(batches)
    plan = lc.plan(model, parse_method(METHODS[0]), exclude="conv1", input_size=tuple(images.shape[1:]))
    lean = lc.convert(model, plan, "fit", data=batches)
    exact = variances(lc.reestimate_norms_(copy.deepcopy(lean), images))
    for size in (*(size for size in BATCHES if size < len(images)), len(images)):
        again = lc.reestimate_norms_(copy.deepcopy(lean), images.split(size))
        apart = max(float(((a - b).abs() / b).max()) for a, b in zip(variances(again), exact, strict=True))
        yield {
            "what": "norms", "method": METHODS[0], "batch": size, "variance_error": apart,
            "reestimated_top1_pct": top1(again),
        }  # fmt: skip


def variances(model: nn.Module) -> list[Tensor]:
    return [
        norm.running_var
        for norm in model.modules()
        if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    ]


def folded(model: nn.Module, batches: list[Tensor], top1: Callable[[nn.Module], float]) -> Any:
    """Rows for the network with its norms folded into the convolutions before them, as fitted and with repaired outputs."""
    plain = without_norms(model)
    for text in FOLDED:
        plan = lc.plan(plain, parse_method(text), exclude="conv1", input_size=tuple(batches[0].shape[1:]))
        for fit, settings in FITS.items():
            lean = converted(plain, plan, batches, settings)
            before = top1(lean)
            lc.repair_outputs_(lean, plain, batches)
            yield {"what": "folded", "method": text, "fit": fit, "top1_pct": before, "repaired_top1_pct": top1(lean)}


def converted(model: nn.Module, plan: lc.Plan, batches: list[Tensor], settings: dict[str, bool]) -> nn.Module:
    data = batches if settings.get("data") else None
    return lc.convert(model, plan, "fit", data=data, sequential=settings.get("sequential", False)).eval()


def without_norms(model: nn.Module) -> nn.Module:
    """A copy of a network of leanconv's ResNets, whose norms are folded: convN and bnN, and shortcuts of a pair."""
    plain = copy.deepcopy(model).eval()
    for parent in list(plain.modules()):
        for (first, conv), (second, norm) in zip(
            list(parent.named_children()), list(parent.named_children())[1:], strict=False
        ):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, first, fuse_conv_bn_eval(conv, norm))
                setattr(parent, second, nn.Identity())
    return plain


if __name__ == "__main__":
    main()
