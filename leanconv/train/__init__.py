"""Training and evaluation of classifiers."""

from __future__ import annotations

from leanconv.train.config import TrainConfig
from leanconv.train.evaluate import evaluate
from leanconv.train.recipes import RECIPES
from leanconv.train.run import FitResult, fit
from leanconv.train.scoring import Scores

__all__ = ["RECIPES", "FitResult", "Scores", "TrainConfig", "evaluate", "fit"]
