"""Choose one candidate for each layer, exactly: the least sum of scores within all limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leanconv.budget.costs import Costs
from leanconv.budget.limits import shown
from leanconv.budget.space import Candidate, Space
from leanconv.core.errors import SettingError

PERMITTED = 1e-9  # part of a limit that rounding may exceed
SECONDS = 60.0  # for one solution


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
    """

    def __init__(self, space: Space, costs: Costs, scores: Mapping[str, float]) -> None:
        self.space, self.costs = space, costs
        self.candidates = [one for one in space.candidates if one.group is None or one.key in scores]
        self.scores = np.array([0.0 if one.group is None else scores[one.key] for one in self.candidates])
        names = [site.name for site in space.sites]
        self.cover = np.array(
            [[any(site.name == name for site in one.sites) for one in self.candidates] for name in names], dtype=float
        )

    def solve(self, most: Mapping[str, float]) -> Solution:
        """The choice with the least sum of scores within the limits.

        Args:
            most: the largest value of each limited measure, in its unit.

        Raises:
            SettingError: no choice meets all limits; the error names the nearest limits that can be met.
        """
        self._check(most)
        found = self._milp(self.scores, most)
        if found is None:
            nearest = self.nearest(most)
            said = ",".join(f"{name}={shown(name, value)}" for name, value in nearest.items())
            parts = ",".join(f"{name}={value / self.costs.network[name]:.3f}" for name, value in nearest.items())
            asked = ",".join(f"{name}={shown(name, value)}" for name, value in most.items())
            raise SettingError(f"no choice of candidates meets {asked}; the nearest that can be met is {parts} ({said})")
        return found

    def nearest(self, most: Mapping[str, float]) -> dict[str, float]:
        """The values that the measures in `most` have if all limits are multiplied by the smallest factor that can be met."""
        found = self._milp(np.zeros(len(self.candidates)), most, stretch=True)
        assert found is not None
        return {name: found.predicted[name] for name in most}

    def frontier(self, measure: str, points: int) -> list[Solution]:
        """Choices for `points` limits on one measure, from the dense network down to the leanest choice; equal ones once."""
        dense = self.costs.network[measure]
        least = self.nearest({measure: dense * 1e-9})[measure] * (1 + 1e-6)
        found: dict[tuple[str, ...], Solution] = {}
        for limit in np.linspace(dense, least, points):
            solution = self.solve({measure: float(limit)})
            found.setdefault(tuple(one.key for one in solution.chosen), solution)
        return list(found.values())

    def _check(self, most: Mapping[str, float]) -> None:
        for measure in most:
            if measure not in self.costs.network:
                way = "the network cannot be traced" if measure == "memory" else "it was not measured"
                raise SettingError(f"budget: {measure} of this network is unknown, because {way}; limit another measure")

    def _milp(self, scores: np.ndarray, most: Mapping[str, float], stretch: bool = False) -> Solution | None:
        """The best choice; None if there is none. With `stretch`, all limits are multiplied by a factor that is minimised.

        The variables are x_c for each candidate, then P (a part of the network's memory), then the factor.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp

        n = len(self.candidates)
        rows = [np.append(row, [0.0, 0.0]) for row in self.cover]
        low, high = [1.0] * len(rows), [1.0] * len(rows)
        for measure, limit in most.items():
            row, constant = self._row(measure)
            scale = self.costs.network[measure]
            row, allowed = row / scale, limit / scale * (1 + PERMITTED)
            # network part <= allowed, or network part - factor * allowed <= 0
            rows.append(np.append(row, -allowed) if stretch else np.append(row, 0.0))
            low.append(-np.inf)
            high.append(-constant / scale + (0.0 if stretch else allowed))
            if measure == "memory":
                for peak, least in self._peaks():
                    rows.append(peak)
                    low.append(least)
                    high.append(np.inf)
        barred = self._barred(most)
        objective = np.append(scores, [0.0, 1.0 if stretch else 0.0])
        bounds = Bounds(np.zeros(n + 2), np.concatenate([np.where(barred, 0.0, 1.0), [np.inf, np.inf]]))
        found = milp(
            objective, constraints=LinearConstraint(np.array(rows), low, high), bounds=bounds,
            integrality=np.append(np.ones(n), [0, 0]), options={"mip_rel_gap": 0.0, "time_limit": SECONDS},
        )  # fmt: skip
        if found.x is None:
            return None
        chosen = tuple(one for one, value in zip(self.candidates, found.x[:n], strict=True) if value > 0.5)
        total = float(sum(self.scores[index] for index in range(n) if found.x[index] > 0.5))
        return Solution(chosen, total, self.costs.total(self.space, chosen))

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

    def _barred(self, most: Mapping[str, float]) -> np.ndarray:
        """The candidates without a time, if time is limited."""
        unknown = [self.costs.by_key[one.key].time is None for one in self.candidates]
        return np.array(unknown) & ("time" in most)


def reasons(space: Space, costs: Costs, scores: Mapping[str, float], chosen: Sequence[Candidate]) -> dict[str, str]:
    """Why each layer became what it is, by the layer's name: its score, and the scores of the other candidates."""
    found = {}
    for candidate in chosen:
        for site in candidate.sites:
            others = [one for one in space.lean if site in one.sites and one.key in scores and one is not candidate]
            best = min(others, key=lambda one: scores[one.key], default=None)
            if candidate.group is not None:
                found[site.name] = f"adds {scores[candidate.key]:.3g} to the divergence"
            elif best is None:
                found[site.name] = "no candidate saves anything here"
            else:
                found[site.name] = f"its cheapest candidate, {best.label}, would add {scores[best.key]:.3g} to the divergence"
    return found
