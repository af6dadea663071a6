"""The stages of a search, each stored in the folder of the search: a stopped search continues where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from leanconv.budget.controls import RANDOM, UNIFORM, random_choice, uniform_choice
from leanconv.budget.costs import Costs, formula_costs
from leanconv.budget.events import Say, Stage
from leanconv.budget.measured import time_limit
from leanconv.budget.networks import Made, make, make_by, make_ordinary
from leanconv.budget.ordinary import NARROWER, ORDINARY, largest_share
from leanconv.budget.prediction import measured_ms, sampled
from leanconv.budget.scores import fit_all, score_all
from leanconv.budget.setup import Setup
from leanconv.budget.solver import Problem, Solution, reasons
from leanconv.budget.space import Candidate, Space
from leanconv.budget.times import measured_costs, network_ms
from leanconv.conversion.apply import convert
from leanconv.core.atomic import write_json
from leanconv.core.copying import copied
from leanconv.core.count import count
from leanconv.core.errors import CheckError, SettingError
from leanconv.core.method import Site
from leanconv.core.notes import set_task
from leanconv.deploy.export import export
from leanconv.deploy.formats import FORMATS
from leanconv.deploy.int8 import Called
from leanconv.files.save import save
from leanconv.train.once import read_json
from leanconv.train.prepared import scores_of

FINAL_SECONDS = 10.0  # for the times of all networks together
FILE_OF = {"onnxruntime": "onnx", "openvino": "openvino"}  # runtimes that read a file


@dataclass
class Found:
    """What the stages found.

    Args:
        networks: the dense network, the lean network, and the controls.
        rows: the values of each network, as in the table.
        layers: what each layer became, why, and what it costs.
        frontier: the predicted frontier: for each choice, the limited measure, the predicted values and the summed scores.
        achieved: the points that were converted and trained while a budget of max_drop was searched.
        notes: what could not be done.
        prediction: how well predictions fit real networks; None if this was not asked for.
        exported: the exported file; None for a runtime without a file.
    """

    networks: dict[str, Made]
    rows: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    frontier: list[dict[str, Any]]
    achieved: list[dict[str, Any]]
    notes: list[str]
    prediction: dict[str, Any] | None
    exported: dict[str, Any] | None


class Flow:
    """The stages of one search.

    Args:
        setup: everything that decides the search.
        folder: where each stage is stored.
        say: called after each step.
        progress: show the progress of trainings.
    """

    def __init__(self, setup: Setup, folder: Path, say: Say, progress: bool) -> None:
        self.setup, self.folder, self.say, self.progress = setup, folder, say, progress
        self.achieved: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def run(self) -> Found:
        """Run all stages that are not finished.

        Raises:
            SettingError: no choice meets the budget.
            CheckError: every network of a max_drop budget loses more.
        """
        costs = self.measure()
        space = self.setup.space.only(self.fit(costs))
        scores = self.score(space)
        problem = Problem(space, costs, scores)
        frontier = self.frontier(problem)
        most = self.setup.budget.most(costs.network) if self.setup.budget.limits else {}
        predicted = most if self.setup.budget.max_drop is not None else self.corrected(problem, most)
        solution, lean = self.lean(problem, scores, predicted)
        networks = {"lean": lean} | self.controls(problem, most, predicted, solution.predicted)
        rows = self.verify(networks, costs)
        check = self.setup.config.check
        prediction = self.stored("prediction.json", lambda: self.predict(costs, space, scores)) if check else None
        exported = self.export(lean)
        layers = layer_rows(space.sites, solution, costs, scores, reasons(space, costs, scores, solution.chosen))
        return Found(networks, rows, layers, frontier, self.achieved, self.notes, prediction, exported)

    def stored(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The JSON object in a file of the folder; it is computed and written if there is none."""
        path = self.folder / name
        if not path.exists():
            write_json(path, work())
        return read_json(path)

    def measure(self) -> Costs:
        """The costs of all candidates."""
        found = Costs.from_json(self.stored("costs.json", lambda: self._measured().to_json()))
        self.say(Stage("measure", f"{len(self.setup.space.lean)} candidates for {len(self.setup.space.sites)} layers"))
        if found.unmeasured:
            self.notes.append(
                f"{found.unmeasured} candidates were not timed within {self.setup.config.measure_minutes:g} minutes and were "
                "left out; raise measure_minutes"
            )
        return found

    def _measured(self) -> Costs:
        setup, config = self.setup, self.setup.config
        costs = formula_costs(setup.teacher, setup.space, config.batch)
        if not setup.timed:
            return costs
        return measured_costs(
            costs, setup.space, setup.teacher, runtime=config.runtime, batch=config.batch, threads=config.threads,
            seconds=60 * config.measure_minutes, cache=setup.cache,
            progress=lambda done, total, text: self.say(Stage("measure", text, done, total)),
        )  # fmt: skip

    def fit(self, costs: Costs) -> list[str]:
        """Fit the candidates that help to meet the budget; returns the keys of those that are scored."""
        space, measures = self.setup.space, self.measures
        if self.setup.timed:  # what has no time is never chosen
            space = space.only(key for key, cost in costs.by_key.items() if cost.time is not None)
        space = space.only(one.key for one in space.lean if costs.helps(one, measures))
        if not space.lean:
            raise SettingError(
                f"none of the {len(self.setup.space.lean)} candidates saves {' or '.join(measures)}; name other methods, "
                "or a smaller align"
            )
        return fit_all(
            self.setup.teacher, space, costs, measures, self.setup.images, self.folder,
            lambda done, total, text: self.say(Stage("fit", text, done, total)),
        )  # fmt: skip

    def score(self, space: Space) -> dict[str, float]:
        """The score of each candidate."""
        return score_all(
            self.setup.teacher, space, self.setup.images, self.folder,
            lambda done, total, text: self.say(Stage("score", text, done, total)),
        )  # fmt: skip

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that decide: those of the limits, and the one of the frontier."""
        return tuple(dict.fromkeys([*(limit.measure for limit in self.setup.budget.limits), self.measure_of_frontier]))

    @property
    def measure_of_frontier(self) -> str:
        """The measure along which the frontier goes: the first limit's, or what a max_drop budget makes small."""
        limits = self.setup.budget.limits
        drop = self.setup.budget.max_drop is not None
        return self.setup.config.minimise if drop or not limits else limits[0].measure

    def frontier(self, problem: Problem) -> list[dict[str, Any]]:
        """The predicted frontier along one measure."""
        measure = self.measure_of_frontier

        def points() -> dict[str, Any]:
            found = problem.frontier(measure, self.setup.config.points)
            return {"points": [{"measure": measure, "divergence": one.score, **one.predicted} for one in found]}

        points_ = self.stored("frontier.json", points)["points"]
        self.say(Stage("solve", f"{len(points_)} choices on the frontier of {measure}"))
        return list(points_)

    def lean(self, problem: Problem, scores: Mapping[str, float], most: Mapping[str, float]) -> tuple[Solution, Made]:
        """The lean network: within the limits, or the leanest within max_drop."""
        if self.setup.budget.max_drop is None:
            solution = problem.solve(most)
            self.say(Stage("solve", _said(solution, problem.costs)))
            return solution, self._make("lean", solution, problem, scores)
        return self._within_drop(problem, scores, most, self.setup.budget.max_drop)

    def corrected(self, problem: Problem, most: Mapping[str, float]) -> dict[str, float]:
        """`most`, with the limit on the predicted time at which the network meets the budget by its measured time."""
        if "time" not in most:
            return dict(most)

        def measured(chosen: Sequence[Candidate]) -> float:
            network = convert(self.setup.teacher, self.setup.space.plan(chosen), "fresh").eval()
            ms = measured_ms(self.setup, problem.costs, network)
            self.say(Stage("solve", f"a choice takes {ms:.3g} ms as measured, of {most['time']:.3g} ms"))
            return ms

        found = self.stored("time.json", lambda: time_limit(problem, most, measured))
        nearest = min(one["measured"] for one in found["tried"])
        note = f"no choice takes {most['time']:.3g} ms as measured; the nearest that was tried takes {nearest:.3g} ms"
        if nearest > most["time"]:
            self.notes.append(note)
        return {**most, "time": found["limit"]}

    def _within_drop(
        self, problem: Problem, scores: Mapping[str, float], most: Mapping[str, float], drop: float
    ) -> tuple[Solution, Made]:
        """Search the leanest choice on the frontier whose network, after its recovery, loses at most `drop`.

        The loss is assumed to grow along the frontier, so that half of the remaining choices are excluded with each network.
        """
        measure = self.measure_of_frontier
        path = [one for one in problem.frontier(measure, self.setup.config.points, most) if one.score > 0]
        base = self.dense()["quality"]
        low, high, best = 0, len(path) - 1, None
        losses = []
        while low <= high:
            middle = (low + high) // 2
            made = self._make(f"point-{middle}", path[middle], problem, scores)
            losses.append(base - made.quality)
            self.achieved.append(
                {"point": middle, "quality": made.quality, "one_shot": made.one_shot, **path[middle].predicted}
            )
            if base - made.quality <= drop:
                best, low = (path[middle], made), middle + 1
            else:
                high = middle - 1
        if best is None:
            nearest = f"the nearest loses {min(losses):.2f}" if losses else "there is no lean choice within the limits"
            raise CheckError(f"no network loses at most {drop:g}; {nearest}; raise max_drop, or recovery_epochs")
        best[1].name = "lean"
        return best

    def _make(self, name: str, solution: Solution, problem: Problem, scores: Mapping[str, float]) -> Made:
        why = reasons(problem.space, problem.costs, scores, solution.chosen)
        folder = self.folder / "networks" / name
        return make(self.setup, name, solution.chosen, solution.predicted, why, folder, self.say, self.progress)

    def dense(self) -> dict[str, Any]:
        """The quality of the dense network."""
        return self.stored("dense.json", lambda: {"quality": self.setup.quality(self.setup.teacher)})

    def controls(
        self, problem: Problem, most: Mapping[str, float], predicted: Mapping[str, float], reached: Mapping[str, float]
    ) -> dict[str, Made]:
        """The networks that the lean network is compared with, under the same limits and with the same recovery.

        Args:
            problem: the search.
            most, predicted: the limits, on measured and on predicted time.
            reached: the predicted values of the lean network; its value on the frontier is a limit of a max_drop budget.
        """
        found, costs = {}, problem.costs
        measure = self.measure_of_frontier
        drop = {} if self.setup.budget.max_drop is None else {measure: reached[measure] * (1 + 1e-6)}
        most, predicted = {**most, **drop}, {**predicted, **drop}
        for name, control in self.setup.controls.items():
            folder = self.folder / "networks" / name
            try:
                if control is not None:
                    found[name] = make_by(self.setup, name, control, folder, self.say, self.progress)
                    continue
                if name in ORDINARY:
                    share = self._share(name, costs, most)
                    found[name] = make_ordinary(self.setup, name, share, folder, self.say, self.progress)
                    continue
                chosen = self._choice(name, costs, predicted)
            except SettingError as error:
                self.notes.append(f"{name}: {error}")
                continue
            values = costs.total(self.setup.space, chosen)
            found[name] = make(self.setup, name, chosen, values, {}, folder, self.say, self.progress)
        return found

    def _share(self, name: str, costs: Costs, limits: Mapping[str, float]) -> float:
        def work() -> dict[str, Any]:  # it may measure times, so its result is stored
            return {"share": largest_share(self.setup, name, costs, limits)}

        if name == NARROWER:
            self.notes.append(
                f"{NARROWER} was trained from scratch, with the dense network as its teacher, for "
                f"{self.setup.scratch.epochs} epochs: {self.setup.effort}."
            )
        return float(self.stored(f"{name}.json", work)["share"])

    def _choice(self, name: str, costs: Costs, limits: Mapping[str, float]) -> tuple[Candidate, ...]:
        if name == RANDOM:
            return random_choice(self.setup.space, costs, limits, self.setup.config.seed)
        assert name == UNIFORM

        def work() -> dict[str, Any]:  # it converts several networks, so its result is stored
            return {"chosen": [candidate.key for candidate in uniform_choice(self.setup, costs, limits)]}

        by_key = {candidate.key: candidate for candidate in self.setup.space.candidates}
        return tuple(by_key[key] for key in self.stored("uniform.json", work)["chosen"])

    def verify(self, networks: Mapping[str, Made], costs: Costs) -> list[dict[str, Any]]:
        """Count, time and test all networks. The test part is read once for each network."""
        setup = self.setup

        def rows() -> dict[str, Any]:
            every = {"dense": setup.teacher} | {name: made.network for name, made in networks.items()}
            entries = network_ms(every, setup.example, setup.config.runtime, setup.config.threads, FINAL_SECONDS)
            found = []
            for name, network in every.items():
                made = networks.get(name)
                row = {"network": name} | count(network, setup.input_size).to_json() | entries[name].to_json()
                row |= {"batch": setup.config.batch, "threads": setup.config.threads or torch.get_num_threads()}
                row["quality"] = self.dense()["quality"] if made is None else made.quality
                row["one_shot"] = None if made is None else made.one_shot
                row["test_top1_pct"] = None if setup.metric is not None else setup.test(network)
                row["predicted"] = costs.network if made is None else made.predicted
                found.append(row)
                self.say(Stage("verify", f"{name}: {row['quality']:.2f} on validation, {row['latency_ms']:.3g} ms"))
            return {"rows": found}

        return list(self.stored("verified.json", rows)["rows"])

    def predict(self, costs: Costs, space: Space, scores: Mapping[str, float]) -> dict[str, Any]:
        """Compare predictions with real networks."""
        return sampled(
            self.setup, costs, space, scores, self.setup.config.check,
            lambda done, total, text: self.say(Stage("verify", f"prediction: {text}", done, total)),
        )  # fmt: skip

    def export(self, lean: Made) -> dict[str, Any] | None:
        """Save the lean network in the folder, and export it for its runtime; the file is scored with its own metadata."""
        save(lean.network, self.folder)
        to = FILE_OF.get(self.setup.config.runtime)
        if to is None:
            self.say(Stage("export", "model.safetensors; this runtime reads no other file"))
            return None

        def work() -> dict[str, Any]:
            network = copied(lean.network)
            if not self.setup.data.prepared:
                set_task(network, self.setup.task)
            path = self.folder / f"model{FORMATS[to].files[0]}"
            made = export(network, path, to=to, form="fast", example=self.setup.example)
            run = Called(FORMATS[to].run(made.path, network))
            scored = None
            if self.setup.metric is None:
                scored = scores_of(run, self.setup.data, self.setup.task, self.setup.validation).top1_pct
            return made.to_json() | {"val_top1_pct": scored}

        found = self.stored("exported.json", work)
        self.say(Stage("export", f"{found['path']}: {found['val_top1_pct']} on validation"))
        return found


def layer_rows(
    sites: Sequence[Site], solution: Solution, costs: Costs, scores: Mapping[str, float], why: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What each layer became: a row for each layer, in the order of execution. Costs of a group are in its first row."""
    rows = {}
    for candidate in solution.chosen:
        cost = costs.by_key[candidate.key]
        for number, site in enumerate(candidate.sites):
            dense = costs.by_key[Candidate((site,)).key]
            own = number == 0
            rows[site.name] = {
                "layer": site.name,
                "conv": site.layer,
                "becomes": candidate.label,
                "with": candidate.sites[0].name if not own else None,
                "divergence": scores.get(candidate.key, 0.0) if own else None,
                "params_dense": dense.params,
                "params": cost.params if own else 0,
                "macs_dense": dense.macs,
                "macs": cost.macs if own else 0,
                "time_dense": dense.time,
                "time": cost.time if own else 0.0,
                "why": why[site.name],
            }
    return [rows[site.name] for site in sites]


def _said(solution: Solution, costs: Costs) -> str:
    parts = (f"{name} {value / costs.network[name]:.3f}" for name, value in solution.predicted.items())
    lean = sum(one.group is not None for one in solution.chosen)
    return f"{lean} lean choices, predicted {', '.join(parts)} of dense; summed divergence {solution.score:.4g}"
