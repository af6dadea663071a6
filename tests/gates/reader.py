"""What the reader of a document has: photos, checkpoints, trained networks, and the names that the text explains."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import leanconv as lc

NAMES = ("ant", "bee", "cat")


def photos(folder: Path) -> None:
    """Photos of three classes."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for level, name in enumerate(NAMES):
            own = folder / part / name
            own.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(60 * level, 60 * level + 100, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(own / f"{number}.png")


def checkpoint(path: Path, network: str = "timm/test_resnet", *, averaged: bool = False, **settings: Any) -> None:
    """A checkpoint as a training script writes it, with the moving average of its weights if `averaged`."""
    import torch

    torch.manual_seed(0)
    state = lc.create_model(network, **(settings or {"num_classes": len(NAMES)})).state_dict()
    more = {"state_dict_ema": {name: value.clone() for name, value in state.items()}} if averaged else {}
    torch.save({"state_dict": state, **more}, path)


def names(path: Path) -> None:
    path.write_text("\n".join(NAMES) + "\n")


def trained(method: str | None = None) -> Callable[[Path], None]:
    """A run of `leanconv train` on the digits."""

    def run(folder: Path) -> None:
        lc.fit("resnet8", "digits", method=method, exclude=["conv1"], epochs=1, threads=1, out=folder, progress=False)

    return run


def shapes(folder: Path) -> None:
    """Photos with labelled objects."""
    from leanconv.detect import write_shapes

    write_shapes(folder, train=4, val=2)


def detector(folder: Path) -> None:
    """A run of `leanconv detect train`, on photos beside it."""
    from leanconv import detect

    data = folder.parent / "of_detector"
    if not data.exists():
        shapes(data)
    config = detect.DetectConfig(epochs=1, batch_size=2, min_size=(64,), max_size=64, threads=1)
    detect.fit("mask_rcnn", "timm/test_resnet", data, folder, config, progress=False)


HAS: dict[str, Callable[[Path], None]] = {
    "photos": photos,
    "names.txt": names,
    "my.pth": checkpoint,
    "mine.pth": checkpoint,
    "timm_run.pth": lambda path: checkpoint(path, averaged=True),
    "resnet34_s32u1.pth": lambda path: checkpoint(path, "basis_resnet34", shared=32),
    "resnet56_s16u1.pth": lambda path: checkpoint(path, "basis_resnet56", shared=16, bases=2),
    "spconv.pth": lambda path: checkpoint(path, "spconv_resnet50"),
    "runs/dense": trained(),
    "runs/tied": trained("tied_block(blocks=2)"),
    "runs/split": trained("split(ratio=0.5)"),
}
OF_DETECTION = {"photos": shapes, "runs/dense": detector}


class Reader:
    """The reader of a page, in the working folder.

    Args:
        kept: a folder in which what is made once is kept for other pages.
        detection: whether the page is about detection.
    """

    def __init__(self, kept: Path, detection: bool) -> None:
        self.kept = kept / ("detection" if detection else "images")
        self.has = HAS | (OF_DETECTION if detection else {})

    def bring(self, paths: Iterable[str]) -> None:
        """Put what the reader has into the working folder: each of `paths`, or the folder that holds it."""
        for path in paths:
            name = next((name for name in self.has if path.rstrip("/") == name or path.startswith(f"{name}/")), None)
            if name is None or Path(name).exists():
                continue
            made = self.kept / name
            if not made.exists():
                made.parent.mkdir(parents=True, exist_ok=True)
                self.has[name](made)
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if made.is_dir() else shutil.copy)(made, name)


def explained(wanted: set[str]) -> dict[str, Any]:
    """Of the names that Python lines use, those that the text around them explains: networks, images, a measure.

    Args:
        wanted: the names.
    """
    import torch

    dense = lc.create_model("resnet8", num_classes=3).eval()
    plan = lc.plan(dense, lc.TiedBlock(blocks=2), exclude="conv1")
    labels = torch.arange(48) % 3
    train = (torch.rand(48, 3, 32, 32) * 100 + 60 * labels[:, None, None, None]).to(torch.uint8), labels
    test = train[0][:9], labels[:9]
    found: dict[str, Any] = {
        "lc": lc, "torch": torch, "dense": dense, "model": dense, "plan": plan, "lean": lc.convert(dense, plan),
        "net": lc.create_model("resnet20").eval(), "images": torch.rand(2, 3, 32, 32), "train": train, "test": test,
        "metric": lambda network: 0.0,
        "backbone": lc.create_model("timm/test_resnet"),
    }  # fmt: skip
    if "transformers" in wanted:
        import transformers

        found["transformers"] = transformers
    return {name: value for name, value in found.items() if name in wanted}
