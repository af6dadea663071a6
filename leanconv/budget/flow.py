"""The stages of a search, each stored in the folder of the search: a stopped search continues where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from leanconv.budget.controls import RANDOM, UNIFORM, random_choice, uniform_choice
from leanconv.budget.costs import Costs
from leanconv.budget.events import Say, Stage
from leanconv.budget.limits import shown
from leanconv.budget.narrowed import shares
from leanconv.budget.networks import Made, make, make_by, make_ordinary
from leanconv.budget.ordinary import NARROWER, ORDINARY, largest_share
from leanconv.budget.prediction import sampled
from leanconv.budget.setup import Setup
from leanconv.budget.solver import check_known, reasons
from leanconv.budget.space import Candidate
from leanconv.budget.stages import DENSE, Choice, Stages, narrower_stages
from leanconv.budget.times import network_ms
from leanconv.core.count import count
from leanconv.core.errors import CheckError, SettingError

MARGIN = 0.1  # how much less than its share of the least costs a network with fewer channels may cost
FINAL_SECONDS = 10.0  # for the times of all networks together
FILE_OF = {"onnxruntime": "onnx", "openvino": "openvino"}  # runtimes that read a file


@dataclass
class Found:
    """What the stages found.

    Args:
        networks: the dense network, the lean network, and the controls.
        rows: the values of each network, as in the table.
        layers: what each layer became, why, and what it costs.
        starts: the best choice from the dense network and from each network with fewer channels, with its divergence as predicted
            and after the conversion; [] if there was one start.
        frontier: the predicted frontier: for each choice, the limited measure, the predicted values and the summed scores.
        achieved: the points that were converted and trained while a budget of max_drop was searched.
        notes: what could not be done.
        prediction: how well predictions fit real networks; None if this was not asked for.
        exported: the exported file; None for a runtime without a file.
    """

    networks: dict[str, Made]
    rows: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    frontier: list[dict[str, Any]]
    achieved: list[dict[str, Any]]
    notes: list[str]
    prediction: dict[str, Any] | None
    exported: dict[str, Any] | None


T = TypeVar("T")


def _cost(point: Any) -> float:
    return float(point[point["measure"]])


def _divergence(point: Any) -> float:
    return float(point["divergence"])


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
        self.seconds = 60 * setup.config.measure_minutes  # for measuring layers; half of it, if there are other starts
        self.dense = Stages(setup, DENSE, folder, say, self.seconds / (2 if setup.config.narrowed else 1))
        self.achieved: list[dict[str, Any]] = []
        self.starts: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def run(self) -> Found:
        """Run all stages that are not finished.

        Raises:
            SettingError: no choice meets the budget.
            CheckError: every network of a max_drop budget loses more.
        """
        if self.setup.metric is not None:
            self.quality()  # a metric that does not work fails before the search
        costs, setup = self.dense.costs, self.setup
        most = self.limits(costs)
        every = [self.dense, *self.narrower(costs)]
        frontier = best_points([point for stages in every for point in stages.frontier()])
        choice, lean = self.within_drop(every, most) if setup.budget.max_drop is not None else self.lean(every, most)
        networks = {"lean": lean} | self.controls(most, choice.solution.predicted)
        rows = self.verify(networks, costs)
        if "time" in most and not choice.late:
            self.check_time(rows, most["time"] / costs.dense["time"])
        check = setup.config.check
        prediction = self.dense.stored("prediction.json", self.predict) if check else None
        exported = self.export(lean)
        notes = [*self.notes, *dict.fromkeys(note for stages in every for note in stages.notes)]
        layers = layer_rows(choice, self.dense)
        return Found(networks, rows, layers, self.starts, frontier, self.achieved, notes, prediction, exported)

    def limits(self, costs: Costs) -> dict[str, float]:
        """The largest value of each limited measure; a limit that the dense network meets is noted.

        Raises:
            SettingError: the dense network's value is unknown, or no choice meets the limits, as far as this is known before
                any fit.
        """
        budget, narrowed = self.setup.budget, self.setup.config.narrowed
        check_known(costs, [limit.measure for limit in budget.limits])
        most = budget.most(costs.network)
        for limit in budget.limits:
            if (dense := costs.network[limit.measure]) <= most[limit.measure]:
                self.notes.append(f"the dense network meets {limit}: it has {shown(limit.measure, dense)}.")
        self.dense.check_least(most, MARGIN * min(shares(budget, costs.network, narrowed)) if narrowed else 1.0)
        return most

    def narrower(self, costs: Costs) -> list[Stages]:
        """The stages from networks with fewer channels; what cannot be done is noted."""
        found: list[Stages] = []
        count = self.setup.config.narrowed
        for number, share in enumerate(shares(self.setup.budget, costs.network, count) if count else ()):
            left = self.seconds - sum(stages.costs.seconds for stages in [self.dense, *found])
            try:
                stages = narrower_stages(share, self.dense, max(0.0, left) / (count - number))
                stages.space  # noqa: B018  whether there is a candidate
                found.append(stages)
            except SettingError as error:
                self.notes.append(f"a network with {share:.2f} of the size was not tried: {error}.")
        return found

    def lean(self, every: Sequence[Stages], most: Mapping[str, float]) -> tuple[Choice, Made]:
        """The lean network: of the choices within the limits, the one with the least divergence after its conversion.

        If no choice meets the budget of time as measured, it is the one that comes nearest.
        """
        found = within(every, lambda stages: stages.choice(most))
        if len(found) == 1:
            return found[0], self._make("lean", found[0])
        real = [one.stages.real(one) for one in found]
        self.starts = [
            {
                "from": one.stages.name,
                "predicted": one.solution.predicted,
                "divergence": one.divergence,
                "converted": value,
                "late_ms": one.late,
            }
            for one, value in zip(found, real, strict=True)
        ]
        best, _ = min(zip(found, real, strict=True), key=lambda pair: (pair[0].late, pair[1]))
        return best, self._make("lean", best)

    def within_drop(self, every: Sequence[Stages], most: Mapping[str, float]) -> tuple[Choice, Made]:
        """Search the leanest choice on the frontier whose network, after its recovery, loses at most `max_drop`.

        The loss is assumed to grow along the frontier, so that half of the remaining choices are excluded with each network.
        """
        drop, measure = self.setup.budget.max_drop, self.dense.measure
        assert drop is not None
        paths = within(every, lambda stages: stages.path(most))
        least = min(one.late for path in paths for one in path)
        points = [one for path in paths for one in path if one.changes and one.late == least]
        path = best_points(points, lambda one: one.solution.predicted[measure], lambda one: one.divergence)
        base = self.quality()["quality"]
        low, high, best = 0, len(path) - 1, None
        losses = []
        while low <= high:
            middle = (low + high) // 2
            made = self._make(f"point-{middle}", path[middle])
            losses.append(base - made.quality)
            self.achieved.append(
                {"point": middle, "quality": made.quality, "one_shot": made.one_shot, **path[middle].solution.predicted}
            )
            if base - made.quality <= drop:
                best, low = (path[middle], made), middle + 1
            else:
                high = middle - 1
        if best is None:
            unit = "percentage points" if self.setup.metric is None else "by your metric"
            nearest = f"the nearest loses {min(losses):.2f}" if losses else "there is no lean choice within the limits"
            raise CheckError(
                f"no network loses at most {drop:g} {unit} on the validation part; {nearest}; raise --max-drop (max_drop=) or "
                "--recovery-epochs (recovery_epochs=)"
            )
        best[1].name = "lean"
        return best

    def _make(self, name: str, choice: Choice) -> Made:
        stages, solution = choice.stages, choice.solution
        why = reasons(stages.space, stages.costs, stages.scores, solution.chosen)
        folder = self.folder / "networks" / name
        return make(stages.setup, name, solution.chosen, solution.predicted, why, folder, self.say, self.progress)

    def quality(self) -> dict[str, Any]:
        """The quality of the dense network."""

        def work() -> dict[str, Any]:
            scored = self.setup.scored(self.setup.dense)
            return {"quality": scored.value, "more": {"after": scored.more}}

        return self.dense.stored("dense.json", work)

    def controls(self, most: Mapping[str, float], reached: Mapping[str, float]) -> dict[str, Made]:
        """The networks that the lean network is compared with, under the same limits and with the same recovery.

        Args:
            most: the limits.
            reached: the predicted values of the lean network; its value on the frontier is a limit of a max_drop budget.
        """
        found, costs, measure = {}, self.dense.costs, self.dense.measure
        drop = {} if self.setup.budget.max_drop is None else {measure: reached[measure] * (1 + 1e-6)}
        for name, control in self.setup.controls.items():
            folder = self.folder / "networks" / name
            try:
                if control is not None:
                    found[name] = make_by(self.setup, name, control, folder, self.say, self.progress)
                    continue
                if name in ORDINARY:
                    share = self._share(name, costs, {**most, **drop})
                    found[name] = make_ordinary(self.setup, name, share, folder, self.say, self.progress)
                    continue
                chosen = self._choice(name, costs, {**self.dense.corrected(most)[0], **drop})
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
                f"{NARROWER} was trained from scratch, with the dense network as its teacher, for {self.setup.effort}."
            )
        return float(self.dense.stored(f"{name}.json", work)["share"])

    def _choice(self, name: str, costs: Costs, limits: Mapping[str, float]) -> tuple[Candidate, ...]:
        if name == RANDOM:
            return random_choice(self.setup.space, costs, limits, self.setup.config.seed)
        assert name == UNIFORM

        def work() -> dict[str, Any]:  # it converts several networks, so its result is stored
            return {"chosen": [candidate.key for candidate in uniform_choice(self.setup, costs, limits)]}

        by_key = {candidate.key: candidate for candidate in self.setup.space.candidates}
        return tuple(by_key[key] for key in self.dense.stored("uniform.json", work)["chosen"])

    def verify(self, networks: Mapping[str, Made], costs: Costs) -> list[dict[str, Any]]:
        """Count, time and test all networks. The test part of a classifier's data is read once for each network."""
        setup = self.setup

        def rows() -> dict[str, Any]:
            every = {"dense": setup.dense} | {name: made.network for name, made in networks.items()}
            parts = {name: setup.part(network) for name, network in every.items()}
            entries = network_ms(parts, setup.example, setup.config.runtime, setup.config.threads, FINAL_SECONDS)
            more = {"dense": self.quality().get("more", {})} | {name: made.more for name, made in networks.items()}
            finals = setup.finals(every, more)
            found = []
            for name, part in parts.items():
                made = networks.get(name)
                row = {"network": name} | count(part, setup.input_size).to_json() | entries[name].to_json()
                row |= {"batch": setup.config.batch, "threads": setup.config.threads or torch.get_num_threads()}
                row["quality"] = self.quality()["quality"] if made is None else made.quality
                row["one_shot"] = None if made is None else made.one_shot
                row |= finals[name]
                row["predicted"] = costs.network if made is None else made.predicted
                found.append(row)
                self.say(Stage("verify", f"{name}: {row['quality']:.2f} on validation, {row['latency_ms']:.3g} ms"))
            return {"rows": found}

        return list(self.dense.stored("verified.json", rows)["rows"])

    def check_time(self, rows: Sequence[Mapping[str, Any]], part: float) -> None:
        """Note it if the lean network, which met the budget when it was chosen, takes more than this part of dense's time."""
        taken = next(row["ratio"] for row in rows if row["network"] == "lean")
        if taken > part:
            self.notes.append(
                f"in the last measurement, the lean network takes {taken:.4g} of dense's time, and the budget is {part:.4g}; "
                "when it was chosen, it met the budget"
            )

    def predict(self) -> dict[str, Any]:
        """Compare predictions with real networks, made from the dense network."""
        dense = self.dense
        return sampled(
            self.setup, dense.costs, dense.space, dense.scores, self.setup.config.check, self.folder,
            lambda done, total, text: self.say(Stage("verify", f"prediction: {text}", done, total)),
        )  # fmt: skip

    def export(self, lean: Made) -> dict[str, Any] | None:
        """Save the lean network in the folder, and export it for its runtime; the file is scored with its own metadata."""
        self.setup.save(lean.network, self.folder)
        to = FILE_OF.get(self.setup.config.runtime)
        if to is None:
            self.say(Stage("export", "model.safetensors; this runtime reads no other file"))
            return None
        found = self.dense.stored("exported.json", lambda: self.setup.exported(lean.network, self.folder, to))
        self.say(Stage("export", f"{found['path']}: {found['val_top1_pct']} on validation"))
        return found


def within(every: Sequence[Stages], find: Callable[[Stages], T]) -> list[T]:
    """What `find` returns for the networks from which the limits can be met.

    Raises:
        SettingError: of the network with the fewest channels, which can be made leanest, if there is none.
    """
    found, errors = [], []
    for stages in every:
        try:
            found.append(find(stages))
        except SettingError as error:
            errors.append(error)
    if not found:
        raise errors[-1]
    return found


def best_points(
    points: Sequence[T], cost: Callable[[T], float] = _cost, divergence: Callable[[T], float] = _divergence
) -> list[T]:
    """The points for which no other point costs no more and diverges no more, from the one that costs most."""
    found: list[T] = []
    for point in sorted(points, key=lambda one: (cost(one), divergence(one))):
        if not found or divergence(point) < divergence(found[-1]):
            found.append(point)
    return found[::-1]


def layer_rows(choice: Choice, dense: Stages) -> list[dict[str, Any]]:
    """What each layer became: a row for each layer, in the order of execution. Costs of a group are in its first row.

    Args:
        choice: the candidates, and the network that they change.
        dense: the stages from the dense network, for the costs of its layers.
    """
    rows, stages = {}, choice.stages
    why = reasons(stages.space, stages.costs, stages.scores, choice.solution.chosen)
    layers = {site.name: site.layer for site in dense.setup.space.sites}
    for candidate in choice.solution.chosen:
        cost = stages.costs.by_key[candidate.key]
        for number, site in enumerate(candidate.sites):
            before = dense.costs.by_key[Candidate((site,)).key]
            removed = candidate.block is not None
            own = number == 0 and not removed  # a removed layer costs nothing
            narrower = f"{site.layer}, " if site.layer != layers[site.name] else ""
            rows[site.name] = {
                "layer": site.name,
                "conv": layers[site.name],
                "becomes": narrower + candidate.label,
                "with": candidate.sites[0].name if number else None,
                "divergence": None if number else stages.scores.get(candidate.key, 0.0),
                "params_dense": before.params,
                "params": cost.params if own else 0,
                "macs_dense": before.macs,
                "macs": cost.macs if own else 0,
                "time_dense": before.time,
                "time": cost.time if own else 0.0,
                "why": why[site.name],
            }
    return [rows[site.name] for site in stages.space.sites]
