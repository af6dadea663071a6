"""After training: save the network, test it once, and write the result."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leanconv.core.atomic import write_json
from leanconv.core.errors import RunError
from leanconv.core.modes import in_eval
from leanconv.core.notes import set_task
from leanconv.core.task import Task
from leanconv.experiment.ready import Ready
from leanconv.files.save import save
from leanconv.train.evaluation import evaluate
from leanconv.train.once import SUMMARY_FILE, failure
from leanconv.train.run import FitResult


def conclude(ready: Ready, folder: Path, fitted: FitResult) -> dict[str, Any]:
    """Save the network, test it, and write the summary of the run. The test part is read only here.

    Returns:
        the summary.

    Raises:
        RunError: one of these steps failed; the trained weights are kept.
    """
    try:
        summary = _tested(ready, folder, fitted)
        write_json(folder / SUMMARY_FILE, summary)
    except Exception as error:
        kept = f"the trained weights are in {folder}, and the same command with --resume (resume=True) tries again"
        raise RunError(f"trained, and then failed: {failure(error)}; {kept}") from error
    return summary


def _tested(ready: Ready, folder: Path, fitted: FitResult) -> dict[str, Any]:
    network, config, data = in_eval(ready.network.cpu()), ready.config, ready.data
    network.zero_grad(set_to_none=True)
    if not data.prepared:
        set_task(network, Task(data.mean, data.std, ready.image_size, data.names))
    save(network, folder, allow_nonfinite=True)  # a run that diverged ends with a warning and its scores
    scores = evaluate(
        network, data.test, mean=data.mean, std=data.std, ten_crop=config.ten_crop, precision=config.precision,
        channels_last=config.channels_last, image_size=config.image_size,
    )  # fmt: skip
    if not math.isfinite(scores.loss):
        raise RunError(f"the loss on the test part is {scores.loss}; lower lr, and train again in another folder")
    return {
        "status": "finished",
        "method": ready.label,
        "seed": config.seed,
        "counts": ready.counts,
        "train": {name: value for name, value in asdict(fitted).items() if name != "history"},
        "test": asdict(scores),
    } | ({"problems": data.problems.to_json()} if data.problems.counts else {})
