"""Training and evaluation of classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leanconv.train.config import TrainConfig
from leanconv.train.evaluate import evaluate
from leanconv.train.recipes import RECIPES
from leanconv.train.run import FitResult, fit
from leanconv.train.scoring import Scores

if TYPE_CHECKING:
    from leanconv.train.own_loop import LeanCallback

__all__ = ["RECIPES", "FitResult", "LeanCallback", "Scores", "TrainConfig", "evaluate", "fit"]


def __getattr__(name: str) -> Any:
    if name != "LeanCallback":
        raise AttributeError(f"module 'leanconv.train' has no attribute {name!r}")
    from leanconv.train.own_loop import LeanCallback  # imports Lightning, which takes long

    return LeanCallback
