"""Time a training step of detectors: ``python benchmarks/detector_step.py -o FILE``.

A step is the forward pass, the backward pass and the update for one photo of 800 x 1333 pixels with ten objects. The steps of
all networks are interleaved.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.detect import create_detector
from leanconv.files.target import open_target

BACKBONES = ("timm/resnet50", "tied_resnet50_s", "tied_resnet50", "spconv_resnet50")
DETECTORS = ("mask_rcnn", "retinanet")
FROZEN = ("conv1", "bn1", "layer1")
OBJECTS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detectors", default=",".join(DETECTORS))
    parser.add_argument("--backbones", default=",".join(BACKBONES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows: list[dict[str, Any]] = []
    for name in given.detectors.split(","):
        made: dict[str, nn.Module] = {}
        for backbone in given.backbones.split(","):
            torch.manual_seed(0)
            detector = create_detector(name, open_target(backbone), 91, frozen=FROZEN, frozen_norms=True).train()
            made[backbone] = detector.to(given.device, memory_format=torch.channels_last)
        times: dict[str, list[float]] = {backbone: [] for backbone in made}
        for _ in range(given.rounds + 1):  # the first is a warm-up
            for backbone, detector in made.items():
                times[backbone].append(seconds(detector, given.device))
        for backbone, detector in made.items():
            taken = times[backbone][1:]
            row = {"detector": name, "backbone": backbone, "params": sum(p.numel() for p in detector.parameters())}
            row |= {"seconds": statistics.median(taken), "seconds_min": min(taken), "seconds_max": max(taken)}
            row["rounds"] = given.rounds
            rows.append(row)
            print(row, flush=True)
    command = shlex.join(["python", "benchmarks/detector_step.py", *sys.argv[1:]])
    settings = {"pixels": [800, 1333], "objects": OBJECTS, "batch": 1, "threads": given.threads, "frozen": FROZEN}
    if given.out is not None:
        head = {**provenance(command), "kind": "detection_steps", "settings": settings, "n": 1, "seeds": [0]}
        write_json(given.out, {**head, "rows": rows})


def seconds(detector: nn.Module, device: str) -> float:
    """The seconds of one step; every step uses the same photo."""
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(3, 800, 1333, generator=draw).to(device)
    corner = torch.rand(OBJECTS, 2, generator=draw) * torch.tensor([1100.0, 600.0])
    boxes = torch.cat([corner, corner + 40 + 150 * torch.rand(OBJECTS, 2, generator=draw)], 1)
    masks = torch.zeros(OBJECTS, 800, 1333, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    target = {"boxes": boxes, "labels": torch.arange(1, OBJECTS + 1), "masks": masks}
    target = {key: value.to(device) for key, value in target.items()}
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=1e-4)
    begun = time.perf_counter()
    optimizer.zero_grad()
    sum(detector([image], [target]).values()).backward()
    optimizer.step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
