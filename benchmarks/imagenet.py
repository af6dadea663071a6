"""What training on ImageNet takes: input rate and step rate on this machine: ``python benchmarks/imagenet.py -o FILE``.

- input: JPEG files of 500x375 pixels, made of gradients and noise to ImageNet's size in bytes, are read, decoded, cropped at
  random to 224 and normalised, as `leanconv train` does it.
- step: the forward pass, the backward pass and the SGD update on one batch in memory, in channels_last, as `leanconv train`
  does it; and the bytes that the forward pass stores for the backward pass.

Both are timed in processor time of one core, which other programs on the machine change less than the wall time. The steps of
all networks are interleaved.
"""

from __future__ import annotations

import argparse
import io
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from training_step import processor_times, step_of

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.data import open_data
from leanconv.data.loader import make_loader
from leanconv.timing.latency import threads_set
from leanconv.train.scoring import autocast

HEIGHT, WIDTH, SIDE = 375, 500, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(number: int) -> bytes:
    """A JPEG file of about 100 kB (the mean of ImageNet is 110 kB): smooth colours, coarse noise and fine noise."""
    from PIL import Image

    draw = np.random.default_rng(number)
    rows, columns = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    smooth = np.stack(
        [draw.uniform(40, 200) + 80 * (rows * a + columns * b) for a, b in draw.uniform(-1, 1, (3, 2))], 2
    )
    coarse = np.kron(draw.normal(0, 20, (HEIGHT // 15, WIDTH // 20, 3)), np.ones((15, 20, 1)))
    pixels = smooth + coarse + draw.normal(0, 17, (HEIGHT, WIDTH, 1))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_photos(folder: Path, count: int) -> int:
    """`count` photos in each part of a folder; returns their mean size in bytes."""
    total = 0
    for part, many in (("train", count), ("val", 1)):
        for number in range(many):
            place = folder / part / "photo"
            place.mkdir(parents=True, exist_ok=True)
            data = photo(number)
            (place / f"{number:06}.jpg").write_bytes(data)
            total += len(data) * (part == "train")
    return total // count


def input_rows(count: int, epochs: int) -> list[dict[str, Any]]:
    """Images a second that one core reads, decodes, crops and normalises, in each epoch after the first."""
    with tempfile.TemporaryDirectory() as place:
        size = write_photos(Path(place), count)
        data = open_data(place)
        loader = make_loader(
            data.train, mean=MEAN, std=STD, batch_size=64, augment="random_resized_crop", image_size=SIDE, train=True
        )
        rates = []
        for _ in range(epochs + 1):
            start = time.process_time()
            seen = sum(len(images) for images, _ in loader)
            rates.append(seen / (time.process_time() - start))
    low, middle, high = np.quantile(rates[1:], (0.25, 0.5, 0.75))
    row = {
        "part": "input", "file_bytes": size, "images": count, "n": epochs,
        "images_per_s": middle, "images_per_s_q25": low, "images_per_s_q75": high,
    }  # fmt: skip
    print(row, file=sys.stderr)
    return [row]


def stored_bytes(model: nn.Module, batch: int, precision: str) -> int:
    """Bytes of the tensors that one forward pass keeps for the backward pass, without the weights, for each image."""
    model = model.train().to(memory_format=torch.channels_last)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, torch.UntypedStorage] = {}  # holds them, so that no address is used twice

    def note(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return value

    images = torch.randn(batch, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    kept = torch.autograd.graph.saved_tensors_hooks(note, lambda value: value)
    with kept, autocast(images.device, precision):  # type: ignore[arg-type]
        loss = F.cross_entropy(model(images).float(), torch.arange(batch))
    total = sum(storage.nbytes() for storage in found.values())
    del loss
    return total // batch


def step_rows(networks: list[str], batch: int, precisions: list[str], seconds: float) -> list[dict[str, Any]]:
    """A row for each network in each precision."""
    calls, about = {}, {}
    for name in networks:
        for precision in precisions:
            key = f"{name} {precision}"
            about[key] = {"network": name, "precision": precision, "batch": batch}
            about[key]["stored_bytes"] = stored_bytes(lc.create_model(name), 4, precision)
            calls[key] = step_of(lc.create_model(name), (3, SIDE, SIDE), batch, precision, compiled=False)
    rows = []
    for entry in processor_times(calls, 5, seconds):
        own = about[entry.name]
        counted = lc.count(lc.create_model(own["network"]), (3, SIDE, SIDE))
        rows.append({
            "part": "step", **own, "params": counted.params, "macs": counted.macs, "n": entry.rounds,
            "step_ms": entry.median_ms, "step_ms_q25": entry.q25_ms, "step_ms_q75": entry.q75_ms,
            "step_ratio": entry.ratio, "images_per_s": 1000 * batch / entry.median_ms,
        })  # fmt: skip
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["timm/resnet50", "tied_resnet50_s"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="at least; and at least five rounds")
    parser.add_argument("--photos", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--note", help="what a reader should know, for example another load on the machine")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(0)
    with threads_set(1):
        rows = input_rows(given.photos, given.epochs)
        rows += step_rows(given.networks, given.batch, given.precisions, given.seconds)
    names = ("networks", "precisions", "batch", "photos", "epochs")
    fixed = {"threads": 1, "clock": "processor time", "height": HEIGHT, "width": WIDTH, "side": SIDE}
    settings = {name: getattr(given, name) for name in names} | fixed
    head = {**provenance(shlex.join(["python", "benchmarks/imagenet.py", *sys.argv[1:]])), "kind": "imagenet"}
    notes = {"notes": given.note} if given.note else {}
    n = max(row["n"] for row in rows)
    write_json(given.out, {**head, "settings": settings, "n": n, "seeds": [0], **notes, "rows": rows})


if __name__ == "__main__":
    main()
