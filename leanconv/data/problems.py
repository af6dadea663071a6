"""What was wrong with a data set: left out and counted, or refused, all of it at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from leanconv.core.errors import DataError, SettingError

OnBad = Literal["skip", "refuse"]
NAMED = 10  # places that an error names


@dataclass
class Problems:
    """Each kind of problem with its count and the first places where it was found.

    Args:
        on_bad: "skip" leaves out what is wrong, "refuse" raises DataError, naming all that `settle` finds noted.
    """

    on_bad: OnBad = "skip"
    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    said: str | None = None

    def __post_init__(self) -> None:
        if self.on_bad not in ("skip", "refuse"):
            raise SettingError(f"on_bad={self.on_bad!r} must be skip or refuse")

    @property
    def first(self) -> dict[str, str]:
        """Where each kind was found first."""
        return {kind: places[0] for kind, places in self.places.items()}

    def add(self, kind: str, where: str, said: str | None = None) -> None:
        """Note one; `said` is what the error says where it is the only one."""
        self.said = None if self.counts else said
        self.counts[kind] += 1
        places = self.places.setdefault(kind, [])
        if len(places) < NAMED:
            places.append(where)

    def settle(self) -> None:
        """Raise DataError where something was noted and is to be refused."""
        if self.on_bad != "refuse" or not self.counts:
            return
        way_out = "mend it, or leave such things out with --on-bad skip"
        if self.said is not None:
            raise DataError(f"{self.said}, or leave such things out with --on-bad skip")
        if sum(self.counts.values()) == 1:
            ((kind, (where,)),) = self.places.items()
            raise DataError(f"{where}: {kind}; {way_out}")
        said = []
        for kind, count in self.counts.most_common():
            more = ", ..." if count > len(self.places[kind]) else ""
            said.append(f"{count} x {kind}: {', '.join(self.places[kind])}{more}")
        raise DataError(f"{'; '.join(said)}; {way_out}")

    def lines(self) -> list[str]:
        """One sentence a kind."""
        return [f"{count} x {kind} (first: {self.places[kind][0]})" for kind, count in self.counts.most_common()]

    def to_json(self) -> dict[str, Any]:
        return {kind: {"count": count, "first": self.places[kind][0]} for kind, count in self.counts.items()}
