"""The small sizes at which the tests run what the documents show.

Everything that is changed in a block of a document is listed here, or in a comment beside the block.
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from functools import partial
from typing import Any

# A text of a command or of Python lines, and what is run in its place: a smaller network, fewer epochs, no downloaded weights
TEXTS = {
    "timm/resnet50": "timm/test_resnet",
    "timm/resnet18": "timm/test_resnet",
    "timm/resnet10t": "timm/test_resnet",
    '"resnet50"': '"test_resnet"',
    " --pretrained": "",
    "--exclude conv1 -o lean/": "--exclude 'conv1*' -o lean/",  # the stem of test_resnet has three convolutions
    'exclude=["conv1"]': 'exclude=["conv1.*"]',
    "cifar10": "digits",
    "basis_resnet56(bases=2)": "basis_resnet32(bases=2)",
    " resnet20": " resnet8",
    " resnet56": " resnet20",
    "shallower(macs=0.5)": "shallower(macs=0.8)",  # resnet8 has one block that can go
    " tied_resnet50_s": " spconv_resnet20",
    '"tied_resnet50_s"': '"timm/test_resnet"',
    "fast_vgg(width=0.5)": "fast_vgg(width=0.25)",
    "train fast_vgg": 'train "fast_vgg(width=0.25)"',
    "--recipe cifar_speed": "--recipe cifar_speed --image-size 32",
    "--like timm": "--like timm --image-size 32",
    'like="timm"': 'like="timm", image_size=32',
    'runtimes=("eager", "openvino"), batch=(1, 16)': 'runtimes=("eager",), batch=(1,)',
    "time=0.5": "macs=0.7",
    "macs=0.5,params=0.25": "macs=0.8,params=0.8",  # the small searches try one method
    '"params": 0.25': '"params": 0.8',
    "--max-drop 1.0": "--max-drop 90",
    "1, 3, 224, 224": "1, 3, 32, 32",
    "epochs=100": "epochs=2",
    "DetectConfig(epochs=12": "DetectConfig(threads=1, min_size=(64,), max_size=64, epochs=1",
}
# Flags that are added to each command of a verb; a flag that a command has already is replaced
SEARCH = "--recovery-epochs 1 --images 16 --controls none --methods tied_block --points 2 --narrowed 0 --threads 1"
FLAGS = {
    "train": "--epochs 1 --threads 1",
    "compare": "--epochs 1 --threads 1",
    "lean": SEARCH,
    "bench": "--runtimes eager --batch 1 --seconds 0.1 --threads 1 --input-size 3,32,32",
    "quantize": "--seconds 0.1 --calibrate 16 --threads 1",
    "analyse": "--images 8",
    "detect shapes": "--train 4 --val 2",
    "detect train": "--epochs 1 --min-size 64 --max-size 64 --threads 1",
    "detect eval": "--threads 1",
}
# Settings that a Python function of leanconv gets unless the lines give them
FEW = {"images": 16, "methods": ["tied_block"], "points": 2, "narrowed": 0, "controls": (), "threads": 1}
KEYWORDS: dict[str, dict[str, Any]] = {
    "leanconv.bench": {"seconds": 0.05, "threads": 1},
    "leanconv.lean": {"recovery_epochs": 1, **FEW},
    "leanconv.detect.lean": {"recovery_epochs": 0, **FEW, "images": 4},
}
# Seconds of measurements inside a command
VALUES = {
    "leanconv.experiment.compare.LATENCY_SECONDS": 0.05,
    "leanconv.budget.flow.FINAL_SECONDS": 0.05,
    "leanconv.timing.modules.SECONDS": 0.01,
    "leanconv.timing.modules.WARM_UP": 0.01,
}


def text(shown: str) -> str:
    """A block with the small texts.

    >>> text("compare resnet56 timm/resnet50 --data cifar10")
    'compare resnet20 timm/test_resnet --data digits'
    """
    for old, new in TEXTS.items():
        start = r"(?<![\w/])" if old[0].isalnum() else ""  # whole words
        shown = re.sub(rf"{start}{re.escape(old)}(?!\w)", lambda _, new=new: new, shown)
    return shown


def flags(words: list[str]) -> list[str]:
    """The flags that a command gets.

    >>> flags(["detect", "shapes", "-o", "x/"])
    ['--train', '4', '--val', '2']
    """
    name = next((verb for verb in FLAGS if words[: len(verb.split())] == verb.split()), None)
    return [] if name is None else shlex.split(FLAGS[name])


def replacements() -> Iterator[tuple[Any, str, Any]]:
    """(module, name, value) of what Python lines get in place of the value in the module."""
    for path, value in VALUES.items():
        module, _, name = path.rpartition(".")
        yield importlib.import_module(module), name, value
    for path, settings in KEYWORDS.items():
        module, _, name = path.rpartition(".")
        found = importlib.import_module(module)
        yield found, name, partial(getattr(found, name), **settings)


def replace() -> None:
    """Make the replacements in this process."""
    for module, name, value in replacements():
        setattr(module, name, value)
