"""Measure the size of each network in every format: ``python benchmarks/sizes.py -o FILE``.

A new process reads each file, and its output is compared with PyTorch. Weights and norms are random, because the sizes do not
depend on them.
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
from torch import nn

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.core.notes import task_of
from leanconv.deploy.formats import FORMATS, OPTIONS
from leanconv.deploy.images import image_tensors
from leanconv.ops import METHODS
from leanconv.timing.runtimes import quiet, versions

PAPERS = {
    "SL-VGG (width 256)": ("shard_vgg16", {"width": 256}),
    "ResNet34-S32U1": ("basis_resnet34", {"shared": 32}),
    "TiedResNet50-S": ("tied_resnet50_s", {}),
    "SPConv-ResNet50": ("spconv_resnet50", {}),
}
WIDTH = 64  # of the ResNet-20 that shows every operator: over 1 MB with any of them
FILES = [("onnx", "compact"), ("onnx", "fast"), ("pt2", "compact"), ("openvino", "compact"), ("state-dict", "compact")]
READ = """
import json, sys, torch, numpy
from pathlib import Path
folder = Path(sys.argv[1])
x, wanted = torch.load(folder / "pair.pt", weights_only=True).values()
found = {}
import leanconv as lc
with torch.no_grad():
    found["saved"] = lc.load(folder / "saved")(x)
    found["pt2"] = torch.export.load(folder / "compact.pt2").module()(x)
    dense_or_lean = lc.load(folder / "saved")
    from safetensors.torch import load_model
    load_model(dense_or_lean, folder / "compact.safetensors")
    found["state-dict"] = dense_or_lean(x)
import onnxruntime
for form in ("compact", "fast"):
    settings = json.loads((folder / f"{form}.session.json").read_text())
    session = onnxruntime.InferenceSession(folder / f"{form}.onnx", providers=["CPUExecutionProvider"], **settings)
    found[f"onnx {form}"] = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
sys.modules["openvino_telemetry"] = None
import openvino
run = openvino.Core().compile_model(folder / "compact.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
found["openvino"] = torch.from_numpy(run([x.numpy()])[0])
scale = float(wanted.abs().max())
print(json.dumps({name: float((y - wanted).abs().max()) / scale for name, y in found.items()}))
"""


def operators() -> dict[str, Callable[[], nn.Module]]:
    """A wide ResNet-20 with each method, at its defaults."""

    def build(method: type) -> Callable[[], nn.Module]:
        def made() -> nn.Module:
            dense = lc.create_model("resnet20", width=WIDTH)
            return lc.convert(dense, lc.plan(dense, method(), exclude=["conv1", "*shortcut*"]))

        return made

    return {f"ResNet-20 x4, {method().label()}": build(method) for method in METHODS}


def unsettled(model: nn.Module) -> nn.Module:
    """The network in eval mode, with random normalisation layers, so that they are not the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def measure(model: nn.Module, photos: Path | None) -> dict[str, Any]:
    """The bytes in every format, and the largest error in a new process, as a share of the largest output."""
    task = task_of(model)
    images = [] if photos is None else image_tensors(photos, task, most=4)
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lc.save(model, folder / "saved")
        row["saved_bytes"] = (folder / "saved" / "model.safetensors").stat().st_size
        for to, form in FILES:
            found = lc.export(model, folder / form, to=to, form=form, images=images)
            key = f"{to}_{form}".replace("-", "_")
            row |= {"unique_bytes": found.unique_bytes, f"{key}_bytes": found.file_bytes}
            row |= {f"{key}_loaded_bytes": found.loaded_bytes, f"{key}_max_error": found.max_error}
        row["images_compared"] = len(images)
        # what the same network weighs elsewhere
        plain = folder / "plain.onnx"
        plain.write_bytes((folder / "compact.onnx").read_bytes())
        plain.with_suffix(OPTIONS).write_text("{}\n")
        row["onnx_compact_loaded_without_options_bytes"] = FORMATS["onnx"].loaded(plain)
        x = images[0] if images else torch.randn(1, task.channels, *task.image_size)
        with quiet(), torch.no_grad():
            torch.onnx.export(model, (x,), folder / "script.onnx", dynamo=False)
        row["torchscript_onnx_bytes"] = (folder / "script.onnx").stat().st_size
        with torch.no_grad():
            torch.save({"x": x, "y": model(x)}, folder / "pair.pt")
        done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        row["reloaded_error"] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder of photos; the outputs are also compared on them")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    networks: dict[str, Callable[[], nn.Module]] = {
        label: (lambda name=name, settings=settings: lc.create_model(name, **settings))
        for label, (name, settings) in PAPERS.items()
    }
    rows = []
    for label, build in (networks | operators()).items():
        torch.manual_seed(0)
        model = unsettled(build())
        row = {"network": label, "params": lc.count(model).params, **measure(model, given.images)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    head = provenance(shlex.join(["python", "benchmarks/sizes.py", *sys.argv[1:]]))
    head["versions"] |= versions()
    settings = {"images": 0 if given.images is None else rows[0]["images_compared"]}
    write_json(given.out, {**head, "kind": "sizes", "settings": settings, "n": 1, "seeds": [0], "rows": rows})


if __name__ == "__main__":
    main()
