"""Fits, conversion and recovery within a search."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import leanconv as lc
from leanconv.budget import ordinary, parts
from leanconv.budget.costs import formula_costs
from leanconv.budget.scores import fit_all, stored_modules
from leanconv.budget.space import candidates_of
from leanconv.core.copying import copied
from leanconv.core.errors import DataError, SettingError
from leanconv.core.notes import set_task
from leanconv.core.task import Task
from leanconv.report import markdown_of, results
from leanconv.train import recover
from leanconv.train.config import TrainConfig
from leanconv.train.once import read_json
from tests.budget.conftest import QUICK, Small, striped

SIZE = (1, 8, 8)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(24, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", [lc.LowRank(rank=4), lc.DepthShared()], ids=["one layer", "layers that share"])
def test_candidates_are_fitted_to_the_outputs_of_the_dense_layers(method, trained, images, tmp_path):
    space = candidates_of(trained, SIZE, methods=[method], where=["a.0", "b.0"], align=4)
    candidate = space.lean[0]
    fit_all(trained, space, formula_costs(trained, space), ["macs", "params"], images, tmp_path)
    found = stored_modules(candidate, trained, tmp_path)
    where = [site.name for site in candidate.sites]
    expected = lc.convert(trained, lc.plan(trained, method, where, input_size=SIZE), "fit", data=[images])
    to_weights = lc.convert(trained, lc.plan(trained, method, where, input_size=SIZE), "fit")
    for name, module in found.items():
        dense = module.module.weight_dense()
        torch.testing.assert_close(dense, expected.get_submodule(name).weight_dense(), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(dense, to_weights.get_submodule(name).weight_dense(), atol=1e-3)


def test_inputs_that_are_not_finite_name_their_layer(trained, images, tmp_path):
    space = candidates_of(trained, SIZE, methods=["low_rank"], where="a.0", align=4)
    with pytest.raises(DataError, match=r"the inputs of 'a\.0' hold NaN"):
        fit_all(trained, space, formula_costs(trained, space), ["macs"], images * float("nan"), tmp_path)


@pytest.mark.parametrize("sequential", [False, True])
def test_a_network_is_converted_layer_after_layer_if_this_is_cheap(sequential, trained, images, monkeypatch):
    monkeypatch.setattr(parts, "SEQUENTIAL", 1e12 if sequential else 0)
    plan = lc.plan(trained, lc.LowRank(rank=4), ["a.0", "b.0", "c.0"], input_size=SIZE)
    batches = list(images.split(12))
    expected = lc.convert(trained, plan, "fit", data=batches, sequential=sequential)
    lc.reestimate_norms_(expected, batches)
    assert torch.equal(parts.converted(trained, plan, batches)(images), expected(images))


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (64, [64]), (65, [65]), (66, [64, 2]), (129, [64, 65]), (192, [64, 64, 64])]
)
def test_no_batch_has_a_single_image(count, sizes, trained, data, monkeypatch):
    monkeypatch.setattr("leanconv.budget.search.searched", lambda setup, *_, **__: setup)
    setup: Any = lc.lean(trained, data, "macs=0.6", **QUICK)
    monkeypatch.setattr(type(setup), "_drawn", torch.arange(1 + count)[:, None])
    monkeypatch.setattr(type(setup), "_held", 1)
    assert [len(batch) for batch in setup.batches] == sizes
    assert torch.cat(setup.batches).flatten().tolist() == [*range(1, 1 + count)]


def test_scores_come_from_images_beside_those_of_the_fits(trained, data, monkeypatch):
    monkeypatch.setattr("leanconv.budget.search.searched", lambda setup, *_, **__: setup)
    for asked, held in ((8, 8), (60, 27)):  # of 108 images, at most a quarter
        setup: Any = lc.lean(trained, data, "macs=0.6", **{**QUICK, "images": asked})
        parts_of_all = [setup.held, setup.images, torch.cat(setup.batches)]
        seen, fit, converted = ({image.numpy().tobytes() for image in part} for part in parts_of_all)
        assert len(setup.held) == held and not seen & converted and fit <= converted


def test_the_recovery_learns_from_the_dense_network(trained, data, tmp_path):
    recipe = TrainConfig(epochs=1, batch_size=40, distill="dist")
    lc.lean(trained, data, "macs=0.6", tmp_path, recipe, **{**QUICK, "recovery_epochs": 1})
    noted = (tmp_path / "networks" / "lean" / "recovery" / "config.yaml").read_text()
    assert "teacher" in noted and "distill: dist" in noted


def test_ordinary_networks_meet_every_limit_and_are_read_again(trained, tmp_path):
    names = ("pruned", "pruned_random", "narrower")
    asked: dict[str, Any] = {**QUICK, "controls": names, "recovery_epochs": 1, "methods": ("tied_block",)}
    recipe = TrainConfig(epochs=2, batch_size=40)
    data = striped(120), striped(60)
    first = lc.lean(trained, data, "macs=0.7,params=0.6", tmp_path, recipe, **asked)
    rows = {row["network"]: row for row in first.rows}
    for name in names:
        for measure, part in (("macs", 0.7), ("params", 0.6)):
            assert 0.4 * part * rows["dense"][measure] < rows[name][measure] <= part * rows["dense"][measure]
    for name, epochs in (("pruned", 1), ("narrower", 3)):  # a narrower network has the effort of both trainings
        run = read_json(tmp_path / "networks" / name / "recovery" / "summary.json")
        assert run["epochs"] == epochs
    assert any("for 3 epochs: those of the recipe and of the recovery" in note for note in first.sentences())
    again = lc.lean(trained, data, "macs=0.7,params=0.6", tmp_path, recipe, **asked)
    for name in names:
        mine, theirs = again.controls[name].state_dict(), first.controls[name].state_dict()
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_the_time_of_an_ordinary_network_is_measured(trained, data, monkeypatch):
    dense, found, seen = lc.count(trained, SIZE).macs, [], []

    def measured(setup: Any, costs: Any, network: torch.nn.Module) -> float:
        seen.append(lc.count(network, SIZE).macs)
        return costs.network["time"] * seen[-1] / dense

    def largest(setup: Any) -> torch.nn.Module:
        costs = formula_costs(setup.teacher, setup.space)
        costs.network["time"] = 10.0
        found.append(ordinary.largest_share(setup, "pruned", costs, {"time": 5.0}))
        with pytest.raises(SettingError, match="no share of the channels meets the budget"):
            ordinary.largest_share(setup, "pruned", costs, {"bytes": 1.0})
        return ordinary.of_share(setup, "pruned", found[0])

    monkeypatch.setattr(ordinary, "measured_ms", measured)
    asked = {**QUICK, "controls": {"mine": largest}, "methods": ("tied_block",)}
    result = lc.lean(trained, data, "macs=0.7", None, **asked)
    assert result.rows[-1]["network"] == "mine" and 0.35 * dense < result.rows[-1]["macs"] <= 0.5 * dense
    assert len(seen) < 1 + ordinary.STEPS and max(seen) > 0.5 * dense
    assert len(set(seen)) == len(seen), "near shares give the same network, which is measured once"


def test_blocks_may_learn_first(trained, data):
    asked: dict[str, Any] = {**QUICK, "recovery_epochs": 1, "controls": ("pruned",)}
    found = lc.lean(trained, data, "macs=0.6", None, recover=partial(recover, block_steps=2), **asked)
    assert [row["network"] for row in found.rows] == ["dense", "lean", "pruned"]


@pytest.mark.parametrize(
    ("budget", "fitted"), [("macs=0.9", {"low_rank"}), ("params=0.9", {"depth_shared", "low_rank"})]
)
def test_only_candidates_that_help_to_meet_the_budget_are_fitted(budget, fitted, trained, data, tmp_path):
    """Sharing a weight saves no MACs."""
    methods = [lc.DepthShared(), lc.LowRank(rank=4)]
    lc.lean(trained, data, budget, tmp_path, **{**QUICK, "methods": methods, "where": ["a.0", "b.0"]})
    keys = [json.loads(line)["key"] for line in (tmp_path / "fits.jsonl").read_text().splitlines()]
    assert {key.split("(")[0].split(" ")[0] for key in keys} == fitted


def test_a_budget_for_which_no_candidate_helps(trained, data):
    with pytest.raises(SettingError, match="none of the 1 candidates saves macs; name other methods"):
        lc.lean(trained, data, "macs=0.9", **{**QUICK, "methods": [lc.DepthShared()], "where": ["a.0", "b.0"]})


def test_the_recovery_has_the_image_size_of_the_network(tmp_path):
    """The digits have 8 pixels; the network was trained on 16, and its module does not know its run."""
    dense = lc.fit("fast_vgg(width=0.125)", "digits", epochs=1, image_size=16, threads=1, progress=False).network
    found = lc.lean(dense, "digits", "params=0.5", tmp_path, **{**QUICK, "methods": ["low_rank"], "recovery_epochs": 1})
    assert found.rows[1]["params"] <= 0.5 * found.rows[0]["params"]
    assert "image_size: 16" in (tmp_path / "networks" / "lean" / "recovery" / "config.yaml").read_text()


def test_a_network_of_oblong_images_is_not_trained_on_squares(trained, data):
    model = copied(trained)
    set_task(model, Task((0.5,), (0.25,), (8, 16), ("0", "1", "2")))
    for more in ({"recovery_epochs": 1}, {"controls": "narrower"}):
        with pytest.raises(SettingError, match="takes images of 8x16 pixels, and training resizes to squares only"):
            lc.lean(model, data, "macs=0.6", **{**QUICK, **more})
    rows = lc.lean(model, data, "macs=0.6", **QUICK).rows
    assert rows[0]["macs"] == lc.count(trained, (1, 8, 16)).macs and rows[1]["macs"] <= 0.6 * rows[0]["macs"]


@pytest.mark.parametrize(("train_threads", "written"), [(1, 1), (None, "null")])
def test_the_threads_of_the_recovery(tmp_path, train_threads, written):
    """They are neither those of the timed calls nor those of the dense network's training. A folder may be a path."""
    lc.fit(
        "fast_vgg(width=0.125)", "digits", out=tmp_path / "dense", epochs=1, image_size=16, threads=3, progress=False
    )
    asked = {**QUICK, "methods": ["low_rank"], "recovery_epochs": 1, "threads": 2, "train_threads": train_threads}
    lc.lean(tmp_path / "dense", "digits", "params=0.5", tmp_path / "lean", **asked)
    recovery = tmp_path / "lean" / "networks" / "lean" / "recovery" / "config.yaml"
    assert f"threads: {written}\n" in recovery.read_text()


def test_the_table_and_figure_of_a_results_file(trained, data, tmp_path):
    lc.lean(trained, data, "params=0.9", tmp_path, **{**QUICK, "controls": ("uniform",)})
    text = markdown_of(tmp_path / "summary.json")
    assert "| uniform |" in text and "a call of 1 image(s) in eager, 1 thread(s)" in text
    (svg,) = results.figures_of(tmp_path / "summary.json").values()
    assert "Test accuracy, % against measured time" in svg


class Auxiliary(Small):
    """A second output in training mode, like Inception's auxiliary head."""

    def forward(self, x: torch.Tensor) -> Any:
        found = super().forward(x)
        return (found, found) if self.training else found


def test_an_auxiliary_output_in_training_is_refused_before_the_search(data: Any, tmp_path: Path) -> None:
    asked: dict[str, Any] = {**QUICK, "methods": ("tied_block",), "out": tmp_path / "search"}
    with pytest.raises(SettingError, match="in training mode, the network returns tuple"):
        lc.lean(Auxiliary(), data, "macs=0.8", **asked | {"recovery_epochs": 1})
    assert not (tmp_path / "search").exists()
    assert (
        lc.lean(Auxiliary(), data, "macs=0.8", **asked).rows[1]["macs"] > 0
    )  # without a training of ours it is no matter
