"""Measure the memory of each form of lean layers and networks: ``python benchmarks/memory.py -o FILE``.

Layers: every form of a 3x3 convolution, with the normalisation layer after it. The maps are all tensors that are alive at once
during a call, with the output; they do not depend on the machine. The peak also has the scratch space of libraries.

Networks: each one runs in a process of its own, from an exported file or in eager PyTorch. `working` is what the process holds
after a call more than before it opened the network: weights, feature maps that the runtime keeps, and its own programs. `peak`
is the most during a call.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rivals import NETWORKS, SIZE
from torch import nn

import leanconv as lc
from leanconv.budget.memory import inner_bytes
from leanconv.core.affine import Affine
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.core.method import Method
from leanconv.core.spec import ConvSpec
from leanconv.deploy.formats import run_onnx, run_openvino, unique_bytes
from leanconv.inference.forms import forms_of
from leanconv.timing import runtimes
from leanconv.timing.memory import held_bytes, peak_bytes

LAYERS = ((64, 56), (256, 14), (512, 7))  # channels, side of the map
METHODS: dict[str, Method] = {
    "tied, B = 2": lc.TiedBlock(2),
    "tied, B = 4": lc.TiedBlock(4),
    "split 1/2": lc.Split(),
    "split 1/2, static gate": lc.Split(fusion="static"),
    "basis S16": lc.SharedBasis(16),
    "low rank 1/2": lc.LowRank(0.5),
    "partial 1/2": lc.PartialConv(0.5),
}
CHOSEN = ("ResNet-50", "TiedResNet50-S", "SPConv-ResNet50", "SPConv-ResNet50, static gate", "ResNet-50, tied B = 2")
SUFFIX = {"openvino": ".xml", "onnxruntime": ".onnx"}
FORMS = {"openvino": ("compact", "fast"), "onnxruntime": ("compact", "fast"), "eager": ("as it is", "optimized")}


@torch.no_grad()
def layer_rows(batch: int) -> list[dict[str, Any]]:
    """The rows of all forms of all methods, dense first for each shape."""
    rows = []
    for channels, side in LAYERS:
        x = torch.randn(batch, channels, side, side).to(memory_format=torch.channels_last)
        spec = ConvSpec(channels, channels, (3, 3), padding=(1, 1), bias=False)
        norm = nn.BatchNorm2d(channels).eval()
        built: list[tuple[str, str, nn.Module]] = [("dense", "dense", nn.Conv2d(**spec.kwargs() | {"bias": True}))]
        for label, method in METHODS.items():
            op = method.build([spec])[0].eval()
            built.append((label, "as it is", nn.Sequential(op, norm)))
            built += [
                (label, form, build()) for form, build in forms_of(op, Affine.of(norm)).items() if form != "module"
            ]
        for label, form, module in built:
            module = module.eval().to(memory_format=torch.channels_last)
            output = module(x)
            maps = inner_bytes(module, x) + output.untyped_storage().nbytes()
            del output
            weights = unique_bytes([*module.parameters(), *module.buffers()])
            rows.append({"part": "layer", "channels": channels, "side": side, "method": label, "form": form, "batch": batch,
                         "weights_bytes": weights, "maps_bytes": maps,
                         "peak_bytes": peak_bytes(lambda module=module, x=x: module(x))})  # fmt: skip
    return rows


def child(name: str, runtime: str, form: str, path: str, batch: int, threads: int) -> dict[str, Any]:
    """The memory of one network in this process, which must be fresh."""
    torch.set_num_threads(threads)
    x = torch.randn(batch, *SIZE)

    def opened(name: str, path: str, x: torch.Tensor) -> Callable[[], object]:
        if runtime == "eager":
            network = NETWORKS[name]().eval() if name in NETWORKS else lc.create_model(name).eval()
            network = network.requires_grad_(False).to(memory_format=torch.channels_last)
            if form == "optimized":
                network = lc.optimize(network, x, measured=False)
            return runtimes.prepare("eager", network, x.to(memory_format=torch.channels_last))
        run = run_openvino(Path(path), threads, x.shape) if runtime == "openvino" else run_onnx(Path(path), threads)
        return lambda: run(x)

    if runtime == "eager":
        opened(name, path, x)()  # once before: imports, and memory that the interpreter never gives back
    else:
        opened("", str(Path(path).parent / f"small{SUFFIX[runtime]}"), torch.randn(1, 3, 32, 32))()
    before = held_bytes()
    call = opened(name, path, x)
    call()
    after = held_bytes()
    peak = peak_bytes(call)
    assert before is not None and after is not None and peak is not None, "this system does not show its memory"
    return {"working_bytes": max(0, after - before), "peak_bytes": max(0, after - before + peak)}


def network_rows(names: list[str], batches: list[int], threads: int) -> list[dict[str, Any]]:
    """The rows of all networks; each file is written once and measured in a process for each batch size."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for suffix in SUFFIX.values() if names else ():
            lc.export(lc.create_model("resnet8"), folder / f"small{suffix}", form="fast")
        for name in names:
            network = NETWORKS[name]().eval()
            weights = unique_bytes([*network.parameters(), *network.buffers()])
            for runtime, forms in FORMS.items():
                for form in forms:
                    path = folder / f"net{SUFFIX.get(runtime, '')}"
                    made = None
                    if runtime in SUFFIX:
                        x = torch.randn(2, *SIZE)
                        made = lc.export(network, path, form=form, example=x, verify=False)  # type: ignore[arg-type]
                    for batch in batches:
                        asked = [name, runtime, form, str(path), str(batch), str(threads)]
                        said = subprocess.run(
                            [sys.executable, __file__, "--child", *asked], check=True, capture_output=True, text=True
                        )
                        found = json.loads(said.stdout.splitlines()[-1])
                        rows.append({"part": "network", "network": name, "runtime": runtime, "form": form, "batch": batch,
                                     "weights_bytes": weights, "file_bytes": made and made.file_bytes, **found})  # fmt: skip
                        print(*rows[-1].values(), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(CHOSEN))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--layer-batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    if given.child:
        *texts, batch, threads = given.child
        print(json.dumps(child(*texts, int(batch), int(threads))))
        return
    if given.out is None:
        parser.error("give a file: -o FILE")
    torch.manual_seed(0)
    rows = [*layer_rows(given.layer_batch), *network_rows(given.networks, given.batch, given.threads)]
    head = provenance(shlex.join(["python", "benchmarks/memory.py", *sys.argv[1:]]))
    head["versions"] |= runtimes.versions()
    settings = {"threads": given.threads, "input_size": list(SIZE), "layer_batch": given.layer_batch}
    write_json(given.out, {**head, "kind": "memory", "settings": settings, "n": 1, "seeds": [0], "rows": rows})


if __name__ == "__main__":
    main()
