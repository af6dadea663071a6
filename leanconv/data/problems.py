"""Errors in a data set: they are left out and counted, or refused together in one error."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from leanconv.core.errors import DataError, SettingError

OnBad = Literal["skip", "refuse"]
NAMED = 10  # how many places an error names


@dataclass
class Problems:
    """Every kind of problem, with its count and the first places where it occurs.

    >>> problems = Problems("skip")
    >>> problems.add("image that cannot be read", "a.jpg")
    >>> problems.lines()
    ['1 x image that cannot be read (first: a.jpg)']

    Args:
        on_bad: "skip" leaves out what is wrong; "refuse" lets `settle` raise a DataError that names all problems.
        counts, places: how often each kind occurs, and the first places.
        said: the full error text, if there is exactly one problem.

    Raises:
        SettingError: `on_bad` has another value.
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
        """The first place of each kind."""
        return {kind: places[0] for kind, places in self.places.items()}

    def add(self, kind: str, where: str, said: str | None = None) -> None:
        """Note one problem.

        Args:
            kind: what is wrong, without the place.
            where: the place.
            said: the full error text, used if this stays the only problem.
        """
        self.said = None if self.counts else said
        self.counts[kind] += 1
        places = self.places.setdefault(kind, [])
        if len(places) < NAMED:
            places.append(where)

    def settle(self) -> None:
        """Raise a DataError that names all problems, if there are any and `on_bad` is "refuse"."""
        if self.on_bad != "refuse" or not self.counts:
            return
        way_out = "fix it, or leave such things out with --on-bad skip"
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
        """One line for each kind."""
        return [f"{count} x {kind} (first: {self.places[kind][0]})" for kind, count in self.counts.most_common()]

    def to_json(self) -> dict[str, Any]:
        """The count and the first place of each kind, for a JSON file."""
        return {kind: {"count": count, "first": self.places[kind][0]} for kind, count in self.counts.items()}
