"""Choose one candidate for each layer: the least sum of scores within all limits, exactly if the solver has the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leanconv.budget.costs import Costs
from leanconv.budget.limits import shown
from leanconv.budget.space import Candidate, Space
from leanconv.core.errors import RunError, SettingError

PERMITTED = 1e-9  # part of a limit that rounding may exceed
LEAST = 1e-5  # of the largest stretched limit; the solver takes far smaller coefficients for 0
LARGEST = 1e4  # to which the largest score is scaled for the solver
SECONDS = 60.0  # for one solution
STOPPED = 1  # scipy's status at the limit of time
FEWER = "fewer candidates are solved faster: name methods or layers (where), or give a larger align"


@dataclass(frozen=True)
class Solution:
    """One choice.

    Args:
        chosen: a candidate for each layer or group, in the order of the space.
        score: the sum of the scores.
        predicted: the values of the network by measure.
    """

    chosen: tuple[Candidate, ...]
    score: float
    predicted: dict[str, float]


class UnmetError(SettingError):
    """A budget that no choice meets."""


class Problem:
    """The choice of candidates as a mixed-integer linear problem.

    A binary variable x_c says whether candidate c is chosen. Each layer is in exactly one chosen candidate, so that layers
    that share weights are one choice. The sum of score_c x_c is minimised. A limit on a measure is
    network - sum(dense costs) + sum(cost_c x_c) <= limit. Memory is bytes + P, where P is at least the bytes that are alive
    at each layer.

    Args:
        space: the candidates.
        costs: their costs.
        scores: the score of each lean candidate by its key; a candidate without a score is not chosen. Dense layers have 0.
        tell: called with a note if the solver stops before it knows that its choice is the best.
    """

    def __init__(
        self, space: Space, costs: Costs, scores: Mapping[str, float], tell: Callable[[str], None] = lambda note: None
    ) -> None:
        self.space, self.costs, self.tell = space, costs, tell
        self.candidates = [one for one in space.candidates if not one.changes or one.key in scores]
        self.scores = np.array([scores[one.key] if one.changes else 0.0 for one in self.candidates])
        names = [site.name for site in space.sites]
        self.cover = np.array(
            [[any(site.name == name for site in one.sites) for one in self.candidates] for name in names], dtype=float
        )

    def solve(self, most: Mapping[str, float]) -> Solution:
        """The choice with the least sum of scores within the limits.

        Args:
            most: the largest value of each limited measure, in its unit.

        Raises:
            UnmetError: no choice meets all limits; the error names the nearest limits that can be met.
            RunError: the solver found none in `SECONDS`.
        """
        check_known(self.costs, most)
        found = self._milp(self.scores, most)
        if found is None:
            raise self.unmet(most, self.nearest(most))
        return found

    def unmet(self, most: Mapping[str, float], nearest: Mapping[str, float]) -> UnmetError:
        """The error for limits that no choice meets; it names the values `nearest` that can be met."""
        said = ",".join(f"{name}={shown(name, value)}" for name, value in nearest.items())
        ceil = {name: math.ceil(value / self.costs.dense[name] * 1000) / 1000 for name, value in nearest.items()}
        parts = ",".join(f"{name}={part:g}" for name, part in ceil.items())  # rounded up, so that it can be met
        asked = ",".join(f"{name}={shown(name, value)}" for name, value in most.items())
        late = self.costs.unmeasured if "time" in most else 0
        more = f"; {late} candidates were not timed, so more measure_minutes may help" if late else ""
        return UnmetError(
            f"no choice of candidates meets {asked}; the nearest that can be met is {parts} ({said}){more}"
        )

    def nearest(self, most: Mapping[str, float]) -> dict[str, float]:
        """The values that the measures in `most` have if all limits are multiplied by the smallest factor that can be met."""
        found = self._milp(np.zeros(len(self.candidates)), {}, most)
        if found is None:
            dense = ",".join(f"{name}={shown(name, self.costs.dense[name])}" for name in most)
            raise UnmetError(f"no choice of candidates can be found for this budget; the dense network has {dense}")
        return {name: found.predicted[name] for name in most}

    def frontier(self, measure: str, points: int, within: Mapping[str, float] = {}) -> list[Solution]:
        """Choices for `points` limits on one measure, from the dense network down to the leanest choice; equal ones once.

        Args:
            measure: the measure.
            points: the number of limits.
            within: limits on other measures, which every choice meets.

        Raises:
            SettingError: no choice meets `within`.
        """
        check_known(self.costs, [measure])
        dense = self.solve({**within, measure: self.costs.network[measure]}).predicted[measure]
        least = self.least(measure, within)
        found: dict[tuple[str, ...], Solution] = {}
        for limit in np.linspace(dense, least, points):
            solution = self.solve({**within, measure: float(limit)})
            found.setdefault(tuple(one.key for one in solution.chosen), solution)
        return list(found.values())

    def least(self, measure: str, within: Mapping[str, float] = {}) -> float:
        """The least value of a measure within limits on other measures.

        Raises:
            SettingError: no choice meets `within`.
        """
        if within:
            self.solve(within)
        found = self._milp(np.zeros(len(self.candidates)), within, {measure: self.costs.network[measure] * 1e-3})
        assert found is not None
        return found.predicted[measure] * (1 + 1e-6)

    def _milp(
        self, scores: np.ndarray, most: Mapping[str, float], stretched: Mapping[str, float] = {}
    ) -> Solution | None:
        """The best choice; None if there is none.

        The variables are x_c for each candidate, then P (a part of the network's memory), then a factor.

        Args:
            scores: of the candidates.
            most: limits.
            stretched: limits that are multiplied by the factor, which is minimised.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp

        n = len(self.candidates)
        rows = [np.append(row, [0.0, 0.0]) for row in self.cover]
        low, high = [1.0] * len(rows), [1.0] * len(rows)
        largest_limit = max((limit / self.costs.network[name] for name, limit in stretched.items()), default=1.0)
        for limits, stretch in ((most, False), (stretched, True)):
            for measure, limit in limits.items():
                row, constant = self._row(measure)
                scale = self.costs.network[measure]
                allowed = limit / scale * (1 + PERMITTED)
                if stretch:  # only the ratios of these limits matter
                    allowed = max(allowed / largest_limit, LEAST)
                # x part + constant <= allowed, or x part + constant - factor * allowed <= 0
                rows.append(np.append(row / scale, -allowed if stretch else 0.0))
                low.append(-np.inf)
                high.append((0.0 if stretch else allowed) - constant / scale)
        measures = {*most, *stretched}
        for row, least in self._peaks() if "memory" in measures else ():
            rows.append(row)
            low.append(least)
            high.append(np.inf)
        scale = max(scores.max(initial=0.0), 1e-300) / LARGEST  # the solver takes differences below 1e-6 for none
        largest = np.where(self._untimed() & ("time" in measures), 0.0, 1.0)
        found = milp(
            np.append(scores / scale, [0.0, 1.0 if stretched else 0.0]), constraints=LinearConstraint(np.array(rows), low, high),
            bounds=Bounds(np.zeros(n + 2), np.append(largest, [np.inf, np.inf])), integrality=np.append(np.ones(n), [0, 0]),
            options={"mip_rel_gap": 0.0, "time_limit": SECONDS},
        )  # fmt: skip
        if found.x is None and found.status == STOPPED:
            raise RunError(f"the solver found no choice of {n} candidates in {SECONDS:g} s; {FEWER}")
        if found.x is None:
            return None
        if found.status == STOPPED:
            self.tell(f"the solver stopped after {SECONDS:g} s, so a choice may not be the best of all; {FEWER}")
        taken = found.x[:n] > 0.5
        chosen = tuple(one for one, is_taken in zip(self.candidates, taken, strict=True) if is_taken)
        return Solution(chosen, float(self.scores[taken].sum()), self.costs.total(self.space, chosen))

    def _row(self, measure: str) -> tuple[np.ndarray, float]:
        """The coefficients of x and P in a measure, and its constant."""
        additive = "bytes" if measure == "memory" else measure
        values = np.array([self.costs.by_key[one.key].of(additive) or 0.0 for one in self.candidates])
        dense = sum(self.costs.by_key[one.key].of(additive) or 0.0 for one in self.space.dense)
        unit = self.costs.network["memory"] if measure == "memory" else 0.0
        return np.append(values, unit), self.costs.network[additive] - dense

    def _peaks(self) -> list[tuple[np.ndarray, float]]:
        """Rows that keep P above the peak of the dense network, and above the bytes that are alive at each layer."""
        unit, n = self.costs.network["memory"], len(self.candidates)
        found = [(np.append(np.zeros(n), [1.0, 0.0]), (unit - self.costs.network["bytes"]) / unit)]
        for name, held in self.costs.alive.items():
            inner = np.array([self.costs.by_key[one.key].inner.get(name, 0.0) for one in self.candidates])
            found.append((np.append(-inner / unit, [1.0, 0.0]), held / unit))
        return found

    def _untimed(self) -> np.ndarray:
        """Which candidates have no time."""
        return np.array([self.costs.by_key[one.key].time is None for one in self.candidates])


def check_known(costs: Costs, measures: Iterable[str]) -> None:
    """Raise SettingError if the network's value of a measure is unknown."""
    for measure in measures:
        if measure not in costs.network:
            way = "the network cannot be traced" if measure == "memory" else "it was not measured"
            raise SettingError(f"budget: {measure} of this network is unknown, because {way}; limit another measure")


def reasons(space: Space, costs: Costs, scores: Mapping[str, float], chosen: Sequence[Candidate]) -> dict[str, str]:
    """Why each layer became what it is, by the layer's name: its score, and the scores of the other candidates."""
    found = {}
    for candidate in chosen:
        for site in candidate.sites:
            others = [one for one in space.lean if site in one.sites and one.key in scores and one is not candidate]
            best = min(others, key=lambda one: scores[one.key], default=None)
            if candidate.changes:
                found[site.name] = f"adds {scores[candidate.key]:.3g} to the divergence"
            elif best is None:
                found[site.name] = "no candidate saves anything here"
            else:
                found[site.name] = (
                    f"its cheapest candidate, {best.label}, would add {scores[best.key]:.3g} to the divergence"
                )
    return found
