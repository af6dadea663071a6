"""Each operator against the dense convolution it replaces, on ResNet-50's shapes: ``python benchmarks/layers.py -o FILE``.

Inference: the fastest form, with a norm folded in, in each runtime; the dense layer runs in the same one, so that where a
runtime packs weights once it does so for both. ``--train``: forward and backward in eager mode, in the operator's own form.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path

import torch
from torch import nn

import leanconv as lc
from leanconv.bench import runtimes
from leanconv.bench.latency import threads_set, time_interleaved
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.core.method import Method
from leanconv.core.spec import ConvSpec
from leanconv.inference.affine import Affine, conv_of
from leanconv.inference.autotune import fastest, measure
from leanconv.inference.forms import forms_of

SPATIAL = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels of a 3x3, side of its map
POINTWISE = ((256, 64, 56), (512, 128, 28), (1024, 256, 14), (2048, 512, 7))


def cases() -> list[tuple[str, Method, ConvSpec, int]]:
    """(family, method, convolution, side)."""
    found: list[tuple[str, Method, ConvSpec, int]] = []
    for channels, side in SPATIAL:
        spec = ConvSpec(channels, channels, (3, 3), padding=(1, 1), bias=False)
        for blocks in (2, 4, 8):
            found.append((f"tied 3x3, B = {blocks}", lc.TiedBlock(blocks), spec, side))
        found.append(("split 3x3, ratio 1/2", lc.Split(), spec, side))
        for name, part in (("S16", 4), ("S32", 2)):
            shared = channels // part
            method = lc.SharedBasis(shared, max(1, channels // 64), growth=1)
            found.append((f"basis 3x3, {name}", method, spec, side))
    for inputs, outputs, side in POINTWISE:
        spec = ConvSpec(inputs, outputs, (1, 1), bias=False)
        for blocks in (2, 4, 8):
            found.append((f"tied 1x1, B = {blocks}", lc.TiedBlock(blocks), spec, side))
    return found


def inference(
    method: Method, spec: ConvSpec, x: torch.Tensor, runtime: str, threads: int, seconds: float
) -> dict[str, object]:
    op = method.build([spec])[0].eval()
    ones = torch.ones(spec.out_channels)
    forms = forms_of(op, Affine(ones, torch.zeros_like(ones)))  # type: ignore[arg-type]
    form = fastest(measure(forms, x, "eager", threads))
    dense = conv_of(spec, torch.randn(spec.weight_shape), ones)
    networks = {"dense": dense, "lean": forms[form]().eval()}
    ready = {name: module.to(x.dtype).to(memory_format=torch.channels_last) for name, module in networks.items()}
    calls = {name: runtimes.prepare(runtime, module, x, threads) for name, module in ready.items()}
    return {"form": form} | timed(calls, seconds)


def training(method: Method, spec: ConvSpec, x: torch.Tensor, seconds: float) -> dict[str, object]:
    dense = nn.Conv2d(**spec.kwargs())
    layers = {"dense": dense, "lean": method.build([spec])[0]}
    x = x.requires_grad_()

    def step(layer: nn.Module):
        layer = layer.train().to(memory_format=torch.channels_last)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16)

        def call() -> None:
            with autocast:
                layer(x).sum().backward()

        return call

    return {"form": "training"} | timed({name: step(layer) for name, layer in layers.items()}, seconds)


def timed(calls, seconds: float) -> dict[str, object]:
    dense, lean = time_interleaved(calls, min_rounds=10, seconds=seconds, warm_up=0.3)
    return {
        "dense_ms": dense.median_ms,
        "lean_ms": lean.median_ms,
        "ratio": lean.ratio,
        "ratio_q25": lean.ratio_q25,
        "ratio_q75": lean.ratio_q75,
        "rounds": lean.rounds,
    }


def summary(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Geometric mean and worst shape of each family, batch and runtime."""
    found = []
    for key in dict.fromkeys((row["family"], row["batch"], row["runtime"]) for row in rows):
        own = [row for row in rows if (row["family"], row["batch"], row["runtime"]) == key]
        ratios = [float(row["ratio"]) for row in own]  # type: ignore[arg-type]
        worst = max(own, key=lambda row: float(row["ratio"]))  # type: ignore[arg-type]
        found.append(
            {
                "family": key[0], "batch": key[1], "runtime": key[2],
                "macs_ratio": math.exp(sum(math.log(float(row["macs_ratio"])) for row in own) / len(own)),  # type: ignore[arg-type]
                "ratio": math.exp(sum(map(math.log, ratios)) / len(ratios)),
                "worst": worst["ratio"], "worst_shape": worst["shape"],
            }
        )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--runtimes", nargs="+", default=["eager", "compile"])
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    dtype = getattr(torch, given.precision)
    rows: list[dict[str, object]] = []
    with threads_set(given.threads):
        for batch in given.batch:
            for family, method, spec, side in cases():
                x = (
                    torch.randn(batch, spec.in_channels, side, side)
                    .to(dtype)
                    .contiguous(memory_format=torch.channels_last)
                )
                macs = method.macs([spec], 0, (side, side)) / spec.macs((side, side))
                for runtime in ["eager"] if given.train else given.runtimes:
                    if given.train:
                        found = training(method, spec, x, given.seconds)
                    else:
                        found = inference(method, spec, x, runtime, given.threads, given.seconds)
                    row = {
                        "family": family,
                        "shape": f"{spec} @{side}",
                        "batch": batch,
                        "runtime": runtime,
                        "macs_ratio": macs,
                    }
                    rows.append(row | found)
                    print(
                        f"{batch:3} {family:20} {row['shape']:24} {runtime:8} {found['form']:14} {found['ratio']:.2f}",
                        flush=True,
                    )
    totals = summary(rows)
    for total in totals:
        print(f"{total['batch']:3} {total['family']:20} {total['runtime']:8} {total['ratio']:.2f} of {total['macs_ratio']:.2f} "
              f"(worst {total['worst']:.2f}: {total['worst_shape']})")  # fmt: skip
    head = provenance(shlex.join(["python", "benchmarks/layers.py", *sys.argv[1:]]))
    settings = {"threads": given.threads, "precision": given.precision, "train": given.train, "layout": "channels_last"}
    n = max(int(row["rounds"]) for row in rows)  # type: ignore[call-overload]
    write_json(
        given.out,
        {**head, "kind": "layers", "settings": settings, "n": n, "seeds": [0], "rows": rows, "summary": totals},
    )


if __name__ == "__main__":
    main()
