"""How an analysis says that it exists. Importing this, and all of `leanconv.analyse.kinds`, loads no torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from leanconv.analyse.analysis import Analysis

Subject = Literal["networks", "one network", "folders", "one folder"]
Looks = Callable[..., "Analysis"]
KINDS: dict[str, Kind] = {}


@dataclass(frozen=True)
class Kind:
    """An analysis.

    Args:
        says: what it shows, for a list of all.
        of: what it looks at. Networks come as a mapping of names to modules, folders as one of names to paths.
        function: takes them, and of `images`, `data`, `layers`, `classes` and `seed` those that it has parameters for.
    """

    name: str
    says: str
    of: Subject
    function: Looks

    @property
    def takes(self) -> frozenset[str]:
        """The parameters of its function."""
        return frozenset(inspect.signature(self.function).parameters)


def analysis(says: str, of: Subject = "networks") -> Callable[[Looks], Looks]:
    """Declare the decorated function as the analysis of its name."""

    def declared(function: Looks) -> Looks:
        KINDS[function.__name__] = Kind(function.__name__, says, of, function)
        return function

    return declared
