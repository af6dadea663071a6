"""Train and evaluate classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leanconv.core.lazy import lazy

if TYPE_CHECKING:
    from leanconv.train.blocks import recover_blocks_
    from leanconv.train.config import TrainConfig
    from leanconv.train.evaluation import evaluate
    from leanconv.train.own_loop import LeanCallback
    from leanconv.train.recipes import RECIPES
    from leanconv.train.recovery import recover
    from leanconv.train.run import FitResult, fit
    from leanconv.train.scoring import Scores

__all__ = [
    "RECIPES",
    "FitResult",
    "LeanCallback",
    "Scores",
    "TrainConfig",
    "evaluate",
    "fit",
    "recover",
    "recover_blocks_",
]

_HOME = {
    "RECIPES": "recipes",
    "FitResult": "run",
    "LeanCallback": "own_loop",
    "Scores": "scoring",
    "TrainConfig": "config",
    "evaluate": "evaluation",
    "fit": "run",
    "recover": "recovery",
    "recover_blocks_": "blocks",
}
__getattr__, __dir__ = lazy(__name__, _HOME)  # --help reads the settings, and should not wait for torch
