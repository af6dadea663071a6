"""Controls: choices that know nothing of the scores, under the same budget."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from leanconv.budget.costs import Costs
from leanconv.budget.scores import divergence
from leanconv.budget.setup import Setup
from leanconv.budget.solver import Problem
from leanconv.budget.space import Candidate, Space
from leanconv.core.errors import RunError, SettingError
from leanconv.core.modes import in_eval

UNIFORM, RANDOM = "uniform", "random"
LEVELS = 4  # places in the list of a method's candidates for a layer
TRIED = 3  # uniform choices of which the best is taken


def random_choice(space: Space, costs: Costs, most: Mapping[str, float], seed: int) -> tuple[Candidate, ...]:
    """The choice that the solver makes within the limits if the scores are random numbers.

    Raises:
        SettingError: no choice meets the limits, or the solver finds none in its time.
    """
    draw = torch.rand(len(space.lean), generator=torch.Generator().manual_seed(seed)).tolist()
    scores = {candidate.key: value for candidate, value in zip(space.lean, draw, strict=True)}
    try:
        return Problem(space, costs, scores).solve(most).chosen
    except RunError as error:  # of a control alone, which is left out
        raise SettingError(str(error)) from error


def uniform_choice(setup: Setup, costs: Costs, most: Mapping[str, float]) -> tuple[Candidate, ...]:
    """One method at one level for every layer that it can convert, within the limits.

    The level is the place in the list of the method's candidates for a layer, from the one with the most MACs and parameters
    down; a layer with a shorter list takes its last. Of the choices that meet the limits, the three that save least are
    converted, and the one with the smallest divergence of the whole network is returned.

    Raises:
        SettingError: no such choice meets the limits.
    """
    space = setup.space
    found: dict[tuple[str, ...], tuple[tuple[Candidate, ...], float]] = {}
    for method in dict.fromkeys(one.group.method.name for one in space.lean if one.group is not None):
        for level in range(LEVELS):
            chosen = everywhere(space, costs, method, level)
            if "time" in most and any(costs.by_key[one.key].time is None for one in chosen):
                continue
            values = costs.total(space, chosen)
            if all(values[measure] <= limit for measure, limit in most.items()):
                part = max(values[measure] / costs.network[measure] for measure in most)
                found.setdefault(tuple(one.key for one in chosen), (chosen, part))
    if not found:
        raise SettingError("no method meets the budget if it converts every layer at one level of its settings")
    mildest = sorted(found.values(), key=lambda entry: -entry[1])[:TRIED]
    return min((chosen for chosen, _ in mildest), key=lambda chosen: real_divergence(setup, chosen))


def everywhere(space: Space, costs: Costs, method: str, level: int) -> tuple[Candidate, ...]:
    """The choice of one method at one level for every layer that it can convert."""
    of_sites: dict[tuple[str, ...], list[Candidate]] = {}
    for one in space.lean:
        if one.group is not None and one.group.method.name == method:
            of_sites.setdefault(tuple(site.name for site in one.sites), []).append(one)
    chosen: list[Candidate] = []
    covered: set[str] = set()
    for names, candidates in sorted(of_sites.items(), key=lambda entry: -len(entry[0])):
        if not covered.intersection(names):
            ordered = sorted(candidates, key=lambda one: (-costs.by_key[one.key].macs, -costs.by_key[one.key].params))
            chosen.append(ordered[min(level, len(ordered) - 1)])
            covered.update(names)
    return (*chosen, *(one for one in space.dense if one.sites[0].name not in covered))


@torch.no_grad()
def real_divergence(setup: Setup, chosen: tuple[Candidate, ...]) -> float:
    """The divergence of a converted network, with new statistics, from the dense network on images beside those of the fit."""
    return from_teacher(setup, in_eval(setup.network(chosen)))


@torch.no_grad()
def from_teacher(setup: Setup, network: nn.Module) -> float:
    """The divergence of a network in eval mode from the dense network on images beside those of the fit."""
    found = [
        divergence(network(batch), setup.teacher(batch), setup.classes) * len(batch)
        for batch in setup.in_batches(setup.held)
    ]
    return sum(found) / len(setup.held)
