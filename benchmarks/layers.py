"""Compare each operator with the dense convolution that it replaces: ``python benchmarks/layers.py -o FILE``.

The layer shapes are those of ResNet-50. At inference each lean layer has its fastest form, with a normalisation layer folded into
it, and the dense layer runs in the same runtime. The runtime "packed" is eager PyTorch with every weight converted to oneDNN's
layout beforehand, as torch.compile does when it freezes a network. ``--train`` times the forward and the backward pass in eager
mode, in the operator's plain form.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import shlex
import sys
from pathlib import Path

import torch
from torch import nn

import leanconv as lc
from leanconv.core.affine import Affine, conv_of
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.core.method import Method
from leanconv.core.spec import ConvSpec
from leanconv.inference.forms import forms_of
from leanconv.report.layer_tables import summary
from leanconv.timing import runtimes
from leanconv.timing.latency import threads_set, time_interleaved

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


class PackedConv2d(nn.Module):
    """A convolution whose weight is in oneDNN's layout for one input shape."""

    def __init__(self, conv: nn.Conv2d, shape: torch.Size) -> None:
        super().__init__()
        self.bias = conv.bias
        self.settings = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *self.settings, shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.settings, "none", [], "")


def packed(module: nn.Module, x: torch.Tensor) -> nn.Module:
    """A copy of `module` in which every convolution is a `PackedConv2d`."""
    module = nn.Sequential(copy.deepcopy(module))
    shapes: dict[str, torch.Size] = {}
    hooks = [
        conv.register_forward_pre_hook(lambda conv, inputs, name=name: shapes.__setitem__(name, inputs[0].shape))
        for name, conv in module.named_modules()
        if isinstance(conv, nn.Conv2d)
    ]
    module(x)
    for hook in hooks:
        hook.remove()
    for name, shape in shapes.items():
        module.set_submodule(name, PackedConv2d(module.get_submodule(name), shape))  # type: ignore[arg-type]
    return module.eval()


@torch.no_grad()
def inference(
    method: Method, spec: ConvSpec, x: torch.Tensor, runtime: str, threads: int, seconds: float
) -> dict[str, object]:
    op = method.build([spec])[0].eval()
    ones = torch.ones(spec.out_channels)
    forms = forms_of(op, Affine(ones, torch.zeros_like(ones)))  # type: ignore[arg-type]
    dense = conv_of(spec, torch.randn(spec.weight_shape), ones)
    ready = {
        name: build().eval().to(x.dtype).to(memory_format=torch.channels_last)
        for name, build in {"dense": lambda: dense, **forms}.items()
    }
    if runtime == "packed":
        calls = {name: runtimes.prepare("eager", packed(module, x), x, threads) for name, module in ready.items()}
    else:
        calls = {name: runtimes.prepare(runtime, module, x, threads) for name, module in ready.items()}
    tried = time_interleaved(calls, min_rounds=10, seconds=seconds / 2, warm_up=0.2)
    form = min((entry for entry in tried if entry.name != "dense"), key=lambda entry: entry.median_ms).name
    return {"form": form} | timed({"dense": calls["dense"], "lean": calls[form]}, seconds)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--runtimes", nargs="+", choices=("packed", *runtimes.RUNTIMES), default=["packed"])
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    rows: list[dict[str, object]] = []
    with threads_set(given.threads):
        for precision, batch, (family, method, spec, side) in itertools.product(given.precisions, given.batch, cases()):
            x = torch.randn(batch, spec.in_channels, side, side).to(getattr(torch, precision))
            x = x.contiguous(memory_format=torch.channels_last)
            macs = method.macs([spec], 0, (side, side)) / spec.macs((side, side))
            for runtime in ["eager"] if given.train else given.runtimes:
                if given.train:
                    found = training(method, spec, x, given.seconds)
                else:
                    found = inference(method, spec, x, runtime, given.threads, given.seconds)
                row = {"family": family, "shape": f"{spec} @{side}", "batch": batch, "runtime": runtime}
                rows.append({**row, "precision": precision, "macs_ratio": macs, **found})
                print(*row.values(), precision, found["form"], f"{found['ratio']:.2f}", flush=True)
    for total in summary(rows):
        print(total["family"], total["batch"], total["runtime"], total["precision"], f"{total['ratio']:.2f} of "
              f"{total['macs_ratio']:.2f} (worst {total['worst']:.2f}: {total['worst_shape']})")  # fmt: skip
    head = provenance(shlex.join(["python", "benchmarks/layers.py", *sys.argv[1:]]))
    settings = {"threads": given.threads, "train": given.train, "layout": "channels_last"}
    n = max(int(row["rounds"]) for row in rows)  # type: ignore[call-overload]
    write_json(given.out, {**head, "kind": "layers", "settings": settings, "n": n, "seeds": [0], "rows": rows})


if __name__ == "__main__":
    main()
