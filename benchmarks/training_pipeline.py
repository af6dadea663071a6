"""Compare the training speed of a bare PyTorch loop and of leanconv's whole pipeline, in images per second, as JSON.

The bare loop repeats one batch that is in memory. The pipeline is `fit` on random images of CIFAR's size, with augmentation,
Lightning, metrics and a checkpoint, without validation. The runs are interleaved.

    python benchmarks/training_pipeline.py --rounds 5 --threads 2
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from leanconv.core.machine import provenance
from leanconv.data import ImageData, TensorImages
from leanconv.models import create_model
from leanconv.train import TrainConfig, fit
from leanconv.train.scoring import autocast


def bare(config: TrainConfig, steps: int) -> float:
    """Images per second of the forward pass, the backward pass and the optimizer step alone."""
    model = create_model("resnet20").train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=config.weight_decay, fused=True
    )
    images = torch.randn(config.batch_size, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (config.batch_size,))
    call = torch.compile(model) if config.compile else model

    def step() -> None:
        with autocast(images.device, config.precision):
            loss = F.cross_entropy(call(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(5):
        step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * config.batch_size / (time.perf_counter() - start)


def pipeline(config: TrainConfig, steps: int) -> float:
    """Images per second of the second epoch of `fit`; the first one warms up."""
    count = steps * config.batch_size
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    part = TensorImages(images, torch.arange(count) % 10)
    data = ImageData("random", tuple("0123456789"), part, part, (0.5,) * 3, (0.25,) * 3)
    with tempfile.TemporaryDirectory() as folder:
        return fit(create_model("resnet20"), data, config, Path(folder), progress=False).history[-1]["images_per_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = TrainConfig(
        epochs=2, precision=options.precision, compile=options.compile, validation=0.0, schedule="constant", lr=0.01
    )
    rates: dict[str, list[float]] = {"bare": [], "pipeline": []}
    for _ in range(options.rounds):
        rates["bare"].append(bare(config, options.steps))
        rates["pipeline"].append(pipeline(config, options.steps))
    ratios = [after / before for before, after in zip(rates["bare"], rates["pipeline"], strict=True)]
    rows = [
        {
            "loop": name,
            "images_per_s": round(statistics.median(values)),
            "images_per_s_min": round(min(values)),
            "images_per_s_max": round(max(values)),
            "n": len(values),
        }
        for name, values in rates.items()
    ]
    rows.append({"loop": "pipeline / bare", "ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios)})
    report = {
        **provenance(shlex.join(["python", *sys.argv])),
        "kind": "training",
        "settings": {"target": "resnet20", **vars(options), "train": config.to_json()},
        "n": options.rounds,
        "seeds": [],
        "rows": rows,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
