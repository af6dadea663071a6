"""The solver against exhaustive search, and its errors."""

from __future__ import annotations

import itertools
import random
import re
from typing import Any

import pytest
import scipy.optimize

import leanconv as lc
from leanconv.budget.controls import random_choice
from leanconv.budget.costs import Cost, Costs
from leanconv.budget.limits import Budget
from leanconv.budget.solver import Problem, reasons
from leanconv.budget.space import Candidate, Space
from leanconv.core.errors import RunError, SettingError
from tests.budget.conftest import QUICK


def problem(seed: int, layers: int = 4) -> Problem:
    """Layers of one shape, with candidates of one layer and of pairs, random costs and random scores."""
    draw = random.Random(seed)
    sites = tuple(lc.Site(f"c{index}", lc.ConvSpec(8, 8, 3), 0, ((4, 4),)) for index in range(layers))
    single = [Candidate((site,), lc.Group(lc.TiedBlock(blocks), (site,))) for site in sites for blocks in (2, 4)]
    pairs = [Candidate(pair, lc.Group(lc.DepthShared(), pair)) for pair in itertools.pairwise(sites)]
    space = Space(sites, (*single, *pairs), (), (8, 4, 4))

    def cost(one: Candidate) -> Cost:
        size, lean = len(one.sites), one.group is not None
        part = draw.uniform(0.2, 0.9) if lean else 1.0
        inner = {site.name: draw.choice([0.0, 500.0]) if lean else 0.0 for site in one.sites}
        return Cost(
            100 * size * part, 1000 * size * draw.uniform(0.3, 1), 400 * size * part, inner, size * draw.uniform(0.3, 1)
        )

    costs = {one.key: cost(one) for one in space.candidates}
    network = {"params": 150.0, "macs": 500.0, "bytes": 600.0, "time": 1.0}
    for one in space.dense:
        for name in network:
            network[name] += costs[one.key].of(name)
    alive = {site.name: 1000.0 + 100 * index for index, site in enumerate(sites)}
    network["memory"] = network["bytes"] + 1400.0
    return Problem(space, Costs(network, alive, costs), {one.key: draw.random() for one in space.lean})


def every_choice(found: Problem) -> list[tuple[Candidate, ...]]:
    names = {site.name for site in found.space.sites}
    choices = []
    for count in range(1, len(names) + 1):
        for chosen in itertools.combinations(found.candidates, count):
            covered = [site.name for one in chosen for site in one.sites]
            if len(covered) == len(names) and {*covered} == names:
                choices.append(chosen)
    return choices


def score_of(found: Problem, chosen: tuple[Candidate, ...]) -> float:
    return sum(found.scores[found.candidates.index(one)] for one in chosen)


LIMITS: list[dict[str, float]] = [
    {"params": 0.6},
    {"macs": 0.7, "params": 0.7},
    {"time": 0.7, "bytes": 0.8},
    {"memory": 0.75},
    {"memory": 0.9, "time": 0.8},
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parts", LIMITS, ids=str)
def test_the_choice_is_the_best_of_all(seed, parts):
    found = problem(seed)
    most = {name: part * found.costs.network[name] for name, part in parts.items()}
    totals = [(found.costs.total(found.space, chosen), score_of(found, chosen)) for chosen in every_choice(found)]
    met = [score for total, score in totals if all(total[name] <= limit for name, limit in most.items())]
    if met:
        solution = found.solve(most)
        assert solution.score == pytest.approx(min(met))
        assert all(solution.predicted[name] <= limit * (1 + 1e-6) for name, limit in most.items())
    else:
        with pytest.raises(SettingError, match="no choice of candidates meets"):
            found.solve(most)
        factor = min(max(total[name] / limit for name, limit in most.items()) for total, _ in totals)
        nearest = found.nearest(most)
        assert max(nearest[name] / limit for name, limit in most.items()) == pytest.approx(factor)


def test_an_error_names_the_nearest_budget_that_can_be_met():
    found = problem(0)
    least = found.least("params")
    with pytest.raises(
        SettingError, match=r"no choice of candidates meets params=1; the nearest that can be met is"
    ) as error:
        found.solve({"params": 1.0})
    named = re.search(r"met is (params=[\d.]+)", str(error.value))
    assert named is not None and found.solve(Budget.of(named[1]).most(found.costs.network)).predicted["params"] <= least
    with pytest.raises(SettingError, match=r"no choice of candidates meets params=1; the nearest"):
        found.least("macs", {"params": 1.0})


@pytest.mark.parametrize("most", [{"macs": 2e-9}, {"time": 1e-12}, {"macs": 1e-12, "params": 100.0}], ids=str)
def test_a_budget_that_is_far_too_small_names_the_nearest(most):
    with pytest.raises(
        SettingError, match=r"no choice of candidates meets .*; the nearest that can be met is \w+=0\.\d+"
    ):
        problem(0).solve(most)


def test_a_frontier_falls_from_dense_to_the_leanest_choice():
    found = problem(1)
    points = found.frontier("macs", 5)
    assert points[0].score == 0 and all(one.group is None for one in points[0].chosen)
    assert [point.score for point in points] == sorted(point.score for point in points)
    assert [point.predicted["macs"] for point in points] == sorted((p.predicted["macs"] for p in points), reverse=True)
    assert points[-1].predicted["macs"] <= found.least("macs")
    limit = (found.least("params") + found.costs.network["params"]) / 2
    within = found.frontier("macs", 3, {"params": limit})
    assert within and all(point.predicted["params"] <= limit * (1 + 1e-6) for point in within)


def test_a_candidate_without_a_time_is_not_chosen_under_a_limit_on_time():
    found = problem(2)
    fast = min(found.space.lean, key=lambda one: found.costs.by_key[one.key].time)
    costs = dict(found.costs.by_key)
    costs[fast.key] = Cost(1.0, 1.0, 1.0, costs[fast.key].inner)
    known = Problem(found.space, Costs(found.costs.network, found.costs.alive, costs), dict.fromkeys((fast.key,), 0.0))
    assert all(one.group is None for one in known.solve({"time": found.costs.network["time"]}).chosen)


def test_an_unknown_measure_is_refused():
    found = problem(0)
    for measure, said in (("memory", "cannot be traced"), ("time", "was not measured")):
        network = {name: value for name, value in found.costs.network.items() if name != measure}
        with pytest.raises(SettingError, match=f"{measure} of this network is unknown, because .*{said}"):
            Problem(found.space, Costs(network, {}, found.costs.by_key), {}).solve({measure: 1.0})


def test_each_layer_has_a_reason():
    found = problem(3)
    scores = {
        one.key: score for one, score in zip(found.candidates, found.scores, strict=True) if one.group is not None
    }
    solution = found.solve({"params": 0.7 * found.costs.network["params"]})
    why = reasons(found.space, found.costs, scores, solution.chosen)
    assert {*why} == {site.name for site in found.space.sites}
    assert any("to the divergence" in text for text in why.values())


def stop(patch: pytest.MonkeyPatch, found_one: bool) -> None:
    """Let the solver end at its limit of time, with or without a choice."""
    exact = scipy.optimize.milp

    def stopped(*args: Any, **settings: Any) -> Any:
        result = exact(*args, **settings)
        result.status, result.x = 1, result.x if found_one else None
        return result

    patch.setattr(scipy.optimize, "milp", stopped)


@pytest.mark.parametrize("found_one", [True, False])
def test_a_solver_that_is_stopped_says_so(found_one, monkeypatch):
    notes: list[str] = []
    found = problem(1)
    told = Problem(found.space, found.costs, dict.fromkeys((one.key for one in found.space.lean), 0.5), notes.append)
    most = {"params": 0.7 * found.costs.network["params"]}
    chosen = told.solve(most).chosen
    assert not notes
    stop(monkeypatch, found_one)
    if found_one:
        assert told.solve(most).chosen == chosen
        assert len(notes) == 1 and "the solver stopped after 60 s, so a choice may not be the best of all" in notes[0]
    else:
        for solve in (told.solve, told.nearest):
            with pytest.raises(
                RunError, match=r"the solver found no choice of \d+ candidates in 60 s; fewer candidates"
            ):
                solve(most)
        with pytest.raises(SettingError, match="the solver found no choice"):  # which leaves this control out
            random_choice(found.space, found.costs, most, 0)


def test_the_result_notes_a_solver_that_was_stopped(trained, data, monkeypatch):
    stop(monkeypatch, True)
    (note,) = lc.lean(trained, data, "macs=0.6", **QUICK).summary["notes"]
    assert note.startswith("dense: the solver stopped after 60 s")
