"""Overfit detectors on a few photos, to check that they learn: ``python benchmarks/detectors.py DATA -o FILE``.

DATA is a folder of a dozen labelled photos in COCO's layout. Each detector is trained with each method, by the code of
`leanconv detect train`, and evaluated on its training photos. The result shows that a detector can learn. It does not show how
well the detector finds objects in other photos.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from leanconv.conversion.methods import label_of, parse_method
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.detect import DetectConfig, evaluate_detector, load_detector, open_detection
from leanconv.detect.job import DetectJob, run

DETECTORS = ("faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "retinanet")
METHODS = ("dense", "tied_block(blocks=2)", "split(ratio=0.5)")
EPOCHS = {"cascade_mask_rcnn": 48, "retinanet": 120}  # others 80
WHERE = ("layer*.conv[12]",)
BUILD = {"pyramid_channels": 128, "anchor_sizes": (16, 32, 64, 128, 256)}
FEW = {  # proposals: as many as small photos need
    "box_batch_size_per_image": 64, "rpn_pre_nms_top_n_train": 500, "rpn_post_nms_top_n_train": 300,
    "rpn_post_nms_top_n_test": 200, "box_detections_per_img": 50,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="timm/resnet10t")
    parser.add_argument("--detectors", default=",".join(DETECTORS))
    parser.add_argument("--methods", default=";".join(METHODS), help="methods, separated by semicolons")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs; finished runs are not repeated")
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    data = open_detection(given.data)
    torch.set_num_threads(given.threads)
    rows: list[dict[str, Any]] = []
    for name in given.detectors.split(","):
        one_stage = name == "retinanet"
        config = DetectConfig(
            epochs=EPOCHS.get(name, 80), batch_size=4, lr=0.03 if one_stage else 0.02, schedule="cosine", warmup_epochs=3,
            min_size=(160,), max_size=256, clip=10.0, flip=0.0, threads=given.threads,
        )  # fmt: skip
        for text in given.methods.split(";"):
            method = parse_method(text)
            build = BUILD | ({"norm_head": True} if one_stage else FEW)
            job = DetectJob(name, given.backbone, method, data, config, WHERE if method else (), build=build)
            folder = given.runs / f"{name}-{label_of(method).replace('(', '-').rstrip(')')}"
            summary = run(job, folder)
            found = evaluate_detector(load_detector(folder), data.train, by="masks", edges=(0.0,))
            trained = {"epochs": config.epochs, "train_seconds": summary["train"]["train_seconds"]}
            row = {"label": f"{name}, {text}", "counts": summary["counts"], "val": {"part": "train"} | found.to_json()}
            row |= {"detector": name, "method": text, "backbone": given.backbone, **trained}
            rows.append(row)
            print(row["label"], found.metrics, flush=True)
    settings = {"lr": 0.02, "lr_retinanet": 0.03, "batch_size": 4, "min_size": 160, "max_size": 256, "where": WHERE}
    settings |= {"build": BUILD | FEW, "threads": given.threads}
    command = shlex.join(["python", "benchmarks/detectors.py", *sys.argv[1:]])
    if given.out is not None:
        summary = {**provenance(command), "kind": "detection", "settings": settings, "n": 1, "seeds": [0], "rows": rows}
        write_json(given.out, summary)


if __name__ == "__main__":
    main()
