"""Flags that the verbs of `leanconv detect` share, and one for each setting of `DetectConfig`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from leanconv.cli.train_flags import Flag, with_flags

FLAGS = (
    Flag("epochs", int, 24, "Passes over the train part."),
    Flag("batch_size", int, 16, "Photos a step, over all processes together."),
    Flag("lr", float, 0.02, "Highest learning rate; the default is for 16 photos a step, and goes down with them."),
    Flag("momentum", float, 0.9, "Momentum of SGD."),
    Flag("nesterov", bool, False, "Nesterov momentum."),
    Flag("weight_decay", float, 1e-4, "Weight decay."),
    Flag("schedule", Literal["cosine", "onecycle", "step", "constant"], "step", "How lr changes."),
    Flag("milestones", tuple, (0.67, 0.92), "Where step multiplies by gamma: epochs, or fractions of them."),
    Flag("gamma", float, 0.1, "Factor of step."),
    Flag("warmup_epochs", float, 0.07, "Epochs of linear warm-up."),
    Flag(
        "min_size", tuple, (800,), "Pixels of a photo's shorter side; of several, one is drawn for each (multi-scale)."
    ),
    Flag("max_size", int, 1333, "Pixels of its longer side, at most."),
    Flag("flip", float, 0.5, "How likely a photo is mirrored."),
    Flag("clip", float, None, "Largest norm of the gradients."),
    Flag("keep_empty", bool, False, "Train on photos without an object too."),
    Flag("precision", Literal["fp32", "bf16"], "fp32", "bf16 computes in bfloat16 where that is safe."),
    Flag("channels_last", bool, True, "Memory layout of maps and weights."),
    Flag("seed", int, 0, "Where randomness starts."),
    Flag("workers", int, 0, "Processes that decode photos."),
    Flag("threads", int, None, "CPU threads."),
    Flag("no_decay_norm", bool, False, "No weight decay on biases and norms."),
    Flag("record_gradients", bool, False, "Keep the gradients' sizes of shared weights, for analyse --what gradients."),
    Flag("sync_norms", bool, False, "Batch norms take their statistics over all GPUs together."),
)
# of `RunConfig`, and without a meaning here
UNUSED = ("patience", "pct_start", "div_factor", "final_div_factor", "validation")

with_detect_flags = partial(with_flags, FLAGS)

Photos = Annotated[
    Path,
    typer.Option(
        "--data", metavar="DIR", help="Photos with labelled objects: COCO's layout, Pascal VOC's or Cityscapes'."
    ),
]
OnBad = Annotated[
    Literal["skip", "refuse"],
    typer.Option("--on-bad", help="What is wrong in the data: leave it out and count it, or stop, naming all of it."),
]
Part = Annotated[Literal["train", "val"], typer.Option("--part", help="Which part of the data.")]
Runs = Annotated[list[str], typer.Argument(metavar="DIR...", help="Folders that leanconv detect train saved.")]
