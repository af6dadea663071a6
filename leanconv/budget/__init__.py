"""From a trained network to a lean network under a budget: what `leanconv.lean` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leanconv.core.lazy import lazy

if TYPE_CHECKING:
    from leanconv.budget.config import LeanConfig
    from leanconv.budget.limits import Budget, Limit
    from leanconv.budget.result import LeanResult
    from leanconv.budget.space import Candidate, Space, candidates_of

__all__ = ["Budget", "Candidate", "LeanConfig", "LeanResult", "Limit", "Space", "candidates_of"]

_HOME = {
    "Budget": "limits",
    "Candidate": "space",
    "LeanConfig": "config",
    "LeanResult": "result",
    "Limit": "limits",
    "Space": "space",
    "candidates_of": "space",
}
__getattr__, __dir__ = lazy(__name__, _HOME)
