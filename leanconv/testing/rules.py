"""The list of rules; each file of rules adds its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leanconv.core.method import Method
from leanconv.core.spec import ConvSpec
from leanconv.testing.specs import SPECS

Function = Callable[[Method, ConvSpec], None]


@dataclass(frozen=True)
class Level:
    """The specs on which a rule is checked; a rule that takes a second each time is checked on fewer.

    Args:
        thorough: the specs for the first settings of a method.
        variant: the specs for further settings of the same method.
        rejected: check the specs that the method rejects, and not the specs that it accepts.
    """

    thorough: tuple[str, ...]
    variant: tuple[str, ...]
    rejected: bool = False

    def of(self, accepted: list[str], thorough: bool) -> list[str]:
        """The accepted names that belong to this level; if there are none, the first accepted names."""
        names = self.thorough if thorough else self.variant
        return [name for name in accepted if name in names] or accepted[: min(len(names), 2)]


_SOME = ("3x3", "stride 2", "stride (1, 2)", "same, circular", "groups", "uneven")
EVERY = Level(tuple(SPECS), tuple(SPECS))
REJECTED = Level(tuple(SPECS), tuple(SPECS), rejected=True)
SOME = Level(_SOME, _SOME)
FEW = Level(_SOME, ("stride 2", "same, circular"))
FEWER = Level(("stride 2", "groups"), ("stride 2",))
NAMED_SIZES = Level(("stride 2", "stride (1, 2)", "same, circular"), ("stride 2", "same, circular"))
ONCE = Level(("stride 2",), ())


@dataclass(frozen=True)
class Rule:
    """One rule of the contract.

    Args:
        function: raises an error if a method breaks the rule on a spec.
        level: the specs on which the rule is checked.
    """

    function: Function
    level: Level

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def file(self) -> str:
        """The file that defines the rule."""
        return self.function.__module__.rpartition(".")[2]


RULES: list[Rule] = []


def rule(level: Level) -> Callable[[Function], Function]:
    """Add a function to the contract."""

    def add(function: Function) -> Function:
        RULES.append(Rule(function, level))
        return function

    return add
