"""The stages of a search that lead to a choice, from one network: measure, fit, score, solve; each is stored in a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from leanconv.budget.controls import from_teacher, real_divergence
from leanconv.budget.costs import Costs, formula_costs
from leanconv.budget.events import Say, Stage
from leanconv.budget.measured import time_limit
from leanconv.budget.narrowed import narrowed
from leanconv.budget.prediction import measured_ms
from leanconv.budget.scores import fit_all, score_all
from leanconv.budget.setup import Setup
from leanconv.budget.solver import Problem, Solution
from leanconv.budget.space import Candidate, Space
from leanconv.budget.times import measured_costs
from leanconv.core.atomic import write_json
from leanconv.core.errors import SettingError
from leanconv.core.modes import in_eval
from leanconv.experiment.where import where_of
from leanconv.train.once import read_json

DENSE = "dense"
COUNTED = ("params", "macs", "bytes")  # measures that are known without a fit or a measurement


@dataclass(frozen=True)
class Choice:
    """A choice of candidates, and the network that they change.

    Args:
        stages: the stages from that network.
        solution: the candidates.
        late: milliseconds by which every measured network of `stages` exceeds the budget of time; 0 if one meets it.
    """

    stages: Stages
    solution: Solution
    late: float

    @property
    def divergence(self) -> float:
        """The predicted divergence from the dense network: that of the network before, and the summed scores."""
        return self.stages.divergence + self.solution.score

    @property
    def changes(self) -> bool:
        """Whether the choice is anything but the dense network."""
        return self.stages.name != DENSE or any(one.changes for one in self.solution.chosen)


class Stages:
    """The stages from one network: the dense one, or one with fewer channels.

    Args:
        setup: the search; `setup.start` is the network.
        name: of the network.
        folder: where the stages are stored.
        say: called after each step.
        seconds: the longest time for measuring the times of layers.
        dense: the costs of the stages from the dense network; None for these stages themselves.
    """

    def __init__(
        self, setup: Setup, name: str, folder: Path, say: Say, seconds: float, dense: Costs | None = None
    ) -> None:
        self.setup, self.name, self.folder, self.say, self._dense = setup, name, folder, say, dense
        self.seconds = seconds
        self.notes: list[str] = []

    def stored(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The JSON object in a file of the folder; it is computed and written if there is none."""
        path = self.folder / name
        if not path.exists():
            write_json(path, work())
        return read_json(path)

    @cached_property
    def divergence(self) -> float:
        """The divergence of the network from the dense network."""
        if self._dense is None:
            return 0.0
        found = self.stored("start.json", lambda: {"divergence": from_teacher(self.setup, self.setup.start)})
        return float(found["divergence"])

    @cached_property
    def costs(self) -> Costs:
        """The costs of all candidates."""
        found = Costs.from_json(self.stored("costs.json", lambda: self._measured().to_json()))
        self.say(
            Stage(
                "measure",
                f"{self.name}: {len(self.setup.space.lean)} candidates for {len(self.setup.space.sites)} layers",
            )
        )
        if found.unmeasured:
            self.notes.append(
                f"{self.name}: {found.unmeasured} candidates were not timed within {self.seconds / 60:.2g} minutes and were "
                "left out; raise measure_minutes"
            )
        return found

    def _measured(self) -> Costs:
        setup, config = self.setup, self.setup.config
        costs = formula_costs(setup.start, setup.space, config.batch)
        if setup.timed:
            costs = measured_costs(
                costs, setup.space, setup.start, runtime=config.runtime, batch=config.batch, threads=config.threads,
                seconds=self.seconds, cache=setup.cache,
                progress=lambda done, total, text: self.say(Stage("measure", text, done, total)),
            )  # fmt: skip
        if self._dense is None:
            return costs
        ms = measured_ms(setup, self._dense, setup.start) if setup.timed else 0.0
        return costs.of_narrower(self._dense.network, ms)

    def check_least(self, most: Mapping[str, float], share: float) -> None:
        """Raise an error before any fit if no choice of all candidates meets the limits on `COUNTED` measures.

        Args:
            most: the limits.
            share: the part of the costs of these choices that choices from other networks may have.

        Raises:
            UnmetError: no choice meets the limits.
        """
        counted = {name: limit for name, limit in most.items() if name in COUNTED}
        if not counted:
            return
        every = not self.setup.timed  # else a candidate without a time is never chosen
        space = self.setup.space.only(key for key, cost in self.costs.by_key.items() if every or cost.time is not None)
        if not any(self.costs.helps(one, self.measures) for one in space.lean):
            return  # `space` says so
        problem = Problem(space, self.costs, dict.fromkeys((one.key for one in space.lean), 0.0))
        nearest = problem.nearest(counted)
        if share * max(nearest[name] / limit for name, limit in counted.items()) > 1 + 1e-6:
            raise problem.unmet(counted, nearest)

    @cached_property
    def space(self) -> Space:
        """The candidates that help to meet the budget, and for which no other candidate of the same layer is better."""
        space, costs, measures = self.setup.space, self.costs, self.measures
        if self.setup.timed:  # what has no time is never chosen
            space = space.only(key for key, cost in costs.by_key.items() if cost.time is not None)
        space = space.only(one.key for one in space.lean if costs.helps(one, measures))
        if not space.lean and self._dense is None:
            raise SettingError(
                f"none of the {len(self.setup.space.lean)} candidates saves {' or '.join(measures)}; name other methods, "
                "or a smaller align"
            )
        keys = fit_all(
            self.setup.start, space, costs, measures, self.setup.images, self.folder,
            lambda done, total, text: self.say(Stage("fit", text, done, total)),
        )  # fmt: skip
        return self.setup.space.only(keys)

    @cached_property
    def scores(self) -> dict[str, float]:
        """The score of each candidate."""
        return score_all(
            self.setup.start, self.space, self.setup.held, self.folder,
            lambda done, total, text: self.say(Stage("score", text, done, total)), where_of(self.setup.config.on),
            fits=self.setup.images, classes=self.setup.classes,
        )  # fmt: skip

    @cached_property
    def problem(self) -> Problem:
        """The choice of candidates."""
        return Problem(self.space, self.costs, self.scores, lambda note: self.notes.append(f"{self.name}: {note}"))

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that decide: those of the limits, and the one of the frontier."""
        return tuple(dict.fromkeys([*(limit.measure for limit in self.setup.budget.limits), self.measure]))

    @property
    def measure(self) -> str:
        """The measure along which the frontier goes: the first limit's, or what a max_drop budget makes small."""
        limits = self.setup.budget.limits
        drop = self.setup.budget.max_drop is not None
        return self.setup.config.minimise if drop or not limits else limits[0].measure

    def path(self, most: Mapping[str, float] = {}) -> list[Choice]:
        """The choices on the frontier, within limits; that on time holds for the measured time."""
        limits, late = self.corrected(most)
        return [
            Choice(self, one, late) for one in self.problem.frontier(self.measure, self.setup.config.points, limits)
        ]

    @cached_property
    def whole_path(self) -> list[Choice]:
        """The choices on the frontier without limits."""
        return self.path()

    def frontier(self) -> list[dict[str, Any]]:
        """The predicted frontier along one measure."""

        def points() -> dict[str, Any]:
            found = [
                {"measure": self.measure, "from": self.name, "divergence": one.divergence, **one.solution.predicted}
                for one in self.whole_path
            ]
            return {"points": found}

        found = self.stored("frontier.json", points)["points"]
        self.say(Stage("solve", f"{self.name}: {len(found)} choices on the frontier of {self.measure}"))
        return list(found)

    def corrected(self, most: Mapping[str, float]) -> tuple[dict[str, float], float]:
        """`most`, with the limit on the predicted time at which the network meets the budget by its measured time.

        If none does, the limit is that of the nearest network. The second value is the excess of its time in milliseconds.
        """
        if "time" not in most:
            return dict(most), 0.0

        def measured(chosen: Sequence[Candidate]) -> float:
            ms = measured_ms(self.setup, self.costs, in_eval(self.setup.network(chosen, fit=False)))
            self.say(Stage("solve", f"a choice takes {ms:.3g} ms as measured, of {most['time']:.3g} ms"))
            return ms

        found = self.stored("time.json", lambda: time_limit(self.problem, most, measured))
        nearest = min(one["measured"] for one in found["tried"])
        if nearest > most["time"]:
            self.notes.append(
                f"{self.name}: no choice takes {most['time']:.3g} ms as measured; the nearest that was tried takes "
                f"{nearest:.3g} ms"
            )
        return {**most, "time": found["limit"]}, max(0.0, nearest - most["time"])

    def choice(self, most: Mapping[str, float]) -> Choice:
        """The best choice within the limits; that on time holds for the measured time.

        Raises:
            SettingError: no choice meets the limits.
        """
        limits, late = self.corrected(most)
        found = Choice(self, self.problem.solve(limits), late)
        self.say(Stage("solve", f"{self.name}: {_said(found, self.costs)}"))
        return found

    def real(self, choice: Choice) -> float:
        """The divergence of the network of a choice, converted but not trained, from the dense network."""
        chosen = choice.solution.chosen
        stored = self.stored("choice.json", lambda: {"divergence": real_divergence(self.setup, chosen)})
        found = float(stored["divergence"])
        self.say(Stage("solve", f"{self.name}: divergence {found:.4g} after the conversion"))
        return found


def narrower_stages(share: float, dense: Stages, seconds: float) -> Stages:
    """The stages from the dense network with the part `share` of its size, without the channels that others replace best.

    Only methods are tried that are on the frontier of the dense network, which saves time.

    Args:
        share: of the size.
        dense: the stages from the dense network.
        seconds: as in `Stages`.
    """
    setup, folder = dense.setup, dense.folder
    asked = [one if isinstance(one, str) else one.name for one in setup.methods]
    used = {
        one.group.method.name for choice in dense.whole_path for one in choice.solution.chosen if one.group is not None
    }
    methods = [one for one, name in zip(setup.methods, asked, strict=True) if name in used] or sorted(used)
    name = f"narrowed-{share:.2f}"
    network = narrowed(setup, share, folder / name)
    torch.manual_seed(setup.config.seed)
    return Stages(setup.from_(network, methods), name, folder / name, dense.say, seconds, dense.costs)


def _said(choice: Choice, costs: Costs) -> str:
    solution = choice.solution
    parts = (f"{name} {value / costs.dense[name]:.3f}" for name, value in solution.predicted.items())
    lean = sum(one.changes for one in solution.chosen)
    return f"{lean} lean choices, predicted {', '.join(parts)} of dense; divergence {choice.divergence:.4g}"
