"""The registry of the analyses. Importing this module, or `leanconv.analyse.kinds`, does not load torch."""

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
    """A registered analysis.

    Args:
        name: the value of `--what`.
        says: a short description, for the list of all analyses.
        of: the kind of its subjects. Networks are passed as a mapping of names to modules, folders as names to paths.
        function: takes the subjects, and those of `images`, `data`, `layers`, `classes`, `seed` and `average` that are its
            parameters; `images` are those of each network, by its name.
    """

    name: str
    says: str
    of: Subject
    function: Looks

    @property
    def takes(self) -> frozenset[str]:
        """The names of the parameters of `function`."""
        return frozenset(inspect.signature(self.function).parameters)


def analysis(says: str, of: Subject = "networks") -> Callable[[Looks], Looks]:
    """A decorator that registers a function as an analysis, under the name of the function."""

    def declared(function: Looks) -> Looks:
        KINDS[function.__name__] = Kind(function.__name__, says, of, function)
        return function

    return declared
