"""The whole search: budgets are met, a stopped search continues, and the result has every view."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

import leanconv as lc
from leanconv.budget.classifier import teacher_of, title_of
from leanconv.budget.config import LeanConfig
from leanconv.budget.scores import Lines
from leanconv.core.copying import copied
from leanconv.core.errors import CheckError, SettingError
from leanconv.core.notes import get_task
from leanconv.core.task_settings import TaskSettings
from leanconv.data.own import as_images
from leanconv.experiment import where
from leanconv.report.page import table_page
from leanconv.train.once import difference
from tests.budget.conftest import QUICK, Small, Stop, Untraceable, quick_timing, striped
from tests.experiment.test_where import Here


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_users_network_and_tensors_meet_several_limits_at_once(trained, data, tmp_path):
    before = weights(trained)
    found = lc.lean(
        trained, data, {"macs": 0.6, "params": 0.7}, tmp_path / "a", **options(controls=("uniform", "random"))
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    rows = {row["network"]: row for row in found.rows}
    assert {*rows} == {"dense", "lean", "uniform", "random"}
    for name in ("lean", "uniform", "random"):
        assert (
            rows[name]["macs"] <= 0.6 * rows["dense"]["macs"] and rows[name]["params"] <= 0.7 * rows["dense"]["params"]
        )
        assert rows[name]["predicted"]["macs"] == rows[name]["macs"]  # MACs and parameters are predicted exactly
        assert rows[name]["predicted"]["params"] == rows[name]["params"]
    assert lc.count(found.network, (1, 8, 8)).params == rows["lean"]["params"]
    assert found.plan == lc.plan_of(lc.load(tmp_path / "a", Small()))
    assert [row["layer"] for row in found.layers] == ["first.0", "a.0", "b.0", "c.0"]
    assert sum(row["params"] for row in found.layers) == rows["lean"]["params"] - rows["dense"]["params"] + sum(
        row["params_dense"] for row in found.layers
    )
    assert found.frontier[0]["divergence"] == 0 and len(found.to_pandas()) == 4
    text = str(found)
    became = {row["becomes"] for row in found.layers} - {"dense"}
    assert became and all(label in text for label in became) and "of the MACs" in text
    assert "points may be chance" in text
    page = (tmp_path / "a" / "report.html").read_text()
    assert page.count("<svg") >= 2 and "to the divergence" in page
    assert page.index("What got better") < page.index("of the MACs and") < page.index("<table"), "the conclusion first"
    shown = table_page("", "", [], [], summary=found.summary, usual={"config": LeanConfig().to_json()}).facts[0]
    assert "config.align" in dict(shown[1]) and "config.batch" in dict(shown[2]), "default settings are folded"
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["rows"] == json.loads(json.dumps(found.to_json()["rows"]))
    again = lc.lean(
        trained, data, {"macs": 0.6, "params": 0.7}, tmp_path / "a", **options(controls=("uniform", "random"))
    )
    assert torch.equal(again.network(torch.ones(1, 1, 8, 8)), found.network(torch.ones(1, 1, 8, 8)))
    assert {*again.controls} == {"uniform", "random"} and again.rows == summary["rows"]


def options(**more: Any) -> dict[str, Any]:
    return {**QUICK, **more}


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """A search that was not interrupted, with one epoch of recovery."""
    folder = tmp_path_factory.mktemp("whole") / "search"
    with pytest.MonkeyPatch.context() as patch:
        quick_timing(patch)
        data = striped(120), striped(60)
        return lc.lean(trained, data, "macs=0.6", folder, **options(recovery_epochs=1)), folder


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("measure", 1),
        ("fit", 2),
        ("score", 3),
        ("solve", 2),
        ("convert", 1),
        ("recover", 1),
        ("verify", 1),
        ("export", 1),
    ],
)
def test_a_search_that_is_stopped_anywhere_continues_to_the_same_result(stage, number, whole, trained, data, tmp_path):
    asked = options(recovery_epochs=1)
    with pytest.raises(KeyboardInterrupt):
        lc.lean(trained, data, "macs=0.6", tmp_path, **asked | {"progress": Stop(stage, number)})
    with pytest.raises(SettingError, match="unfinished; add --resume"):
        lc.lean(trained, data, "macs=0.6", tmp_path, **asked)
    found = lc.lean(trained, data, "macs=0.6", tmp_path, resume=True, **asked)
    expected, folder = whole
    for name in ("fits.jsonl", "scores.jsonl", "frontier.json", "costs.json"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
    assert [row["quality"] for row in found.rows] == [row["quality"] for row in expected.rows]
    mine, theirs = weights(found.network), weights(expected.network)
    assert {*mine} == {*theirs} and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_scores_of_jobs_on_a_cluster_are_the_serial_ones(whole, trained, data, tmp_path, monkeypatch):
    monkeypatch.setitem(where.PLACES, "here", Here)
    found = lc.lean(trained, data, "macs=0.6", tmp_path, **options(recovery_epochs=1, on="here"))
    expected, folder = whole
    scores = [sorted((place / "scores.jsonl").read_text().splitlines()) for place in (tmp_path, folder)]
    assert scores[0] == scores[1] and len(scores[0]) > 3
    assert all(torch.equal(mine, weights(expected.network)[name]) for name, mine in weights(found.network).items())
    with pytest.raises(SettingError, match="--on 'there'"):
        lc.lean(trained, data, "macs=0.6", tmp_path / "other", **options(recovery_epochs=1, on="there"))


def test_half_a_line_is_written_again(tmp_path):
    lines = Lines(tmp_path / "lines.jsonl")
    lines.add("a", divergence=1.0)
    lines.add("b", divergence=2.0)
    text = (tmp_path / "lines.jsonl").read_text()
    (tmp_path / "lines.jsonl").write_text(text[:-5])
    again = Lines(tmp_path / "lines.jsonl")
    assert [*again.records] == ["a"]
    again.add("b", divergence=2.0)
    assert (tmp_path / "lines.jsonl").read_text() == text


def test_another_search_in_the_folder_is_refused(whole, trained, data):
    _, folder = whole
    with pytest.raises(SettingError, match=r"holds a search for macs=0.6; you ask for macs=0.7; choose"):
        lc.lean(trained, data, "macs=0.7", folder, **options(recovery_epochs=1))
    with pytest.raises(SettingError, match="holds another run: weights"):
        lc.lean(Small(), data, "macs=0.6", folder, **options(recovery_epochs=1))


def test_one_value_stands_for_itself_and_functions_choose_layers(trained, data, monkeypatch):
    monkeypatch.setattr("leanconv.budget.search.searched", lambda setup, *_, **__: setup)

    def setup(**given: Any) -> Any:
        return lc.lean(trained, data, "macs=0.9", **QUICK | given)

    one = setup(where="[ab].0", exclude="b.0", methods="low_rank", controls="uniform")
    assert (
        one.identity()
        == setup(where=["[ab].0"], exclude=["b.0"], methods=["low_rank"], controls=["uniform"]).identity()
    )
    assert [site.name for site in one.space.sites] == ["a.0"] and setup(methods=lc.LowRank(rank=4)).space.lean
    narrow = lambda site: site.spec.out_channels == 8  # noqa: E731
    for chosen in (narrow, [narrow], ["a.0", narrow]):
        found = setup(where=chosen, exclude=lambda site: site.name == "b.0")
        assert {site.name for site in found.space.sites} == {"first.0", "a.0"}
        assert found.identity()["where"][-1].startswith("tests.budget.test_flow.") and json.dumps(found.identity())


def test_another_function_of_the_users_is_another_search(trained, data, tmp_path):
    prepared = []

    def identity(**given: Any) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("leanconv.budget.search.searched", lambda setup, *_, **__: prepared.append(setup.identity()))
            lc.lean(trained, data, "macs=0.6", **QUICK | given)
        return prepared[-1]

    plain = identity(metric=None)
    assert {"metric", "recover"}.isdisjoint(plain), "as older versions wrote it"
    for name, first, second in (
        ("metric", lambda network: 1.0, lambda network: 2.0),
        ("recover", lambda *_, **__: None, lambda *_, **__: 0),
        ("controls", {"own": lambda setup: setup.teacher}, {"own": lambda setup: setup.start}),
    ):
        assert "is None there" in str(difference(plain, identity(**{name: first}))) or name == "controls"
        assert difference(identity(**{name: first}), identity(**{name: first})) is None
        assert f"{name} is " in str(difference(identity(**{name: first}), identity(**{name: second})))


def test_an_own_metric_decides_how_lean_the_network_becomes(trained, data, tmp_path):
    seen: list[int] = []

    def metric(model: torch.nn.Module) -> float:
        seen.append(lc.count(model, (1, 8, 8)).params)
        return float(seen[-1])  # it falls with each saving

    dense = lc.count(trained).params
    found = lc.lean(
        trained, data, f"max_drop={0.4 * dense}", tmp_path, metric=metric, minimise="params", **options(points=6)
    )
    rows = {row["network"]: row for row in found.rows}
    assert rows["lean"]["quality"] >= 0.6 * dense and rows["lean"]["test_top1_pct"] is None
    leaner = [row["params"] for row in found.frontier if row["params"] < rows["lean"]["params"]]
    assert all(params < 0.6 * dense for params in leaner)
    assert len(found.summary["achieved"]) <= 4  # halves, and not all choices
    with pytest.raises(CheckError, match=r"no network loses at most 1 by your metric on .*; the nearest loses"):
        lc.lean(trained, data, "max_drop=1", None, metric=metric, minimise="params", **options())


class Pair(Small):
    """Two outputs."""

    def forward(self, x: torch.Tensor) -> Any:
        found = super().forward(x)
        return {"a": found, "b": 2 * found}


def test_a_network_of_other_outputs_needs_a_metric_and_no_recovery_of_ours(data):
    with pytest.raises(
        SettingError, match=r"the network returns dict; give one that returns a single \(N, classes\) tensor"
    ):
        lc.evaluate(Pair(), data)
    settings = QUICK | {"metric": lambda network: 1.0}
    for wrong in (QUICK, settings | {"recovery_epochs": 1}, settings | {"controls": ("narrower",)}):
        with pytest.raises(SettingError, match=r"the network returns dict"):
            lc.lean(Pair(), data, "macs=0.8", **wrong)
    found = lc.lean(Pair(), data, "macs=0.8", **settings | {"controls": ("uniform", "pruned")})
    assert found.rows[1]["macs"] <= 0.8 * found.rows[0]["macs"] and found.rows[1]["quality"] == 1.0
    trained = []
    mine = settings | {"recovery_epochs": 1, "recover": lambda *_, **__: trained.append(1)}
    assert set(lc.lean(Pair(), data, "macs=0.8", **mine).network(torch.zeros(1, 1, 8, 8))) == {"a", "b"} and trained


def test_a_network_that_cannot_be_traced_and_a_control_of_a_users_own(data):
    torch.manual_seed(0)
    model = Untraceable().eval()

    def half(setup: Any) -> torch.nn.Module:
        return lc.convert(setup.teacher, lc.Grouped(2), where=["a.0", "b.0"])

    found = lc.lean(model, data, "params=0.8", None, **options(controls={"half": half}))
    assert [row["network"] for row in found.rows] == ["dense", "lean", "half"]
    assert "memory" not in found.rows[0]["predicted"]
    with pytest.raises(SettingError, match="memory of this network is unknown, because the network cannot be traced"):
        lc.lean(model, data, "memory=0.8", None, **options())


def test_predictions_are_compared_with_real_networks_and_a_stopped_comparison_continues(
    trained, data, tmp_path, monkeypatch
):
    verified = 2  # events of the stage before the comparison: the dense and the lean network
    with pytest.raises(KeyboardInterrupt):
        lc.lean(trained, data, "macs=0.7", tmp_path, **options(check=3, progress=Stop("verify", verified + 2)))
    stored = Lines(tmp_path / "prediction.jsonl").records
    assert {*stored} == {"0", "1"}
    real = []
    monkeypatch.setattr("leanconv.budget.prediction.real_divergence", lambda *_: real.append(0.5) or 0.5)
    found = lc.lean(trained, data, "macs=0.7", tmp_path, resume=True, **options(check=3))
    prediction = found.summary["prediction"]
    assert len(real) == 1 and prediction["pairs"][2][1] == 0.5
    assert prediction["pairs"][:2] == [stored["0"]["pair"], stored["1"]["pair"]]
    assert -1 <= prediction["spearman"] <= 1 and prediction["times"] == []
    assert any("Spearman" in sentence for sentence in found.sentences())
    assert "Divergence of the network, nats" in (tmp_path / "report.html").read_text()


def test_time_is_measured_with_the_dense_network_and_remembered(trained, data, tmp_path):
    asked = options(methods=("tied_block",), cache=tmp_path / "times.json")
    found = lc.lean(trained, data, "time=9s,params=0.95", tmp_path / "a", where=["c.0"], **asked)
    (layer,) = found.layers
    assert 0 < layer["time_dense"] <= found.rows[0]["predicted"]["time"]
    assert found.rows[1]["predicted"]["time"] > 0
    assert any("search conv" in key for key in json.loads((tmp_path / "times.json").read_text())["times_ms"])


@pytest.mark.slow
def test_the_file_of_the_runtime_is_scored(trained, data, tmp_path):
    found = lc.lean(trained, data, "params=0.95", tmp_path / "a", **options(runtime="onnxruntime"))
    assert found.rows[0]["runtime"] == "onnxruntime" and (tmp_path / "a" / "model.onnx").exists()
    assert found.summary["exported"]["val_top1_pct"] == found.rows[1]["quality"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"budget": "macs=0.001"},
            r"no choice of candidates meets macs=[\d.]+; the nearest that can be met is macs=0\.\d+",
        ),
        ({"controls": ["best"]}, "controls='best' must be uniform, random, pruned, pruned_random, narrower, or a name"),
        ({"controls": {"lean": lambda setup: setup.teacher}}, "is the name of a network that is shown anyway"),
        ({"check": 2}, "check=2 must be at least 3 choices"),
        ({"align": 0}, "align=0 must be a whole number of at least 1"),
        ({"minimize": "time"}, "no such setting; did you mean minimise"),
        ({"model": torch.nn.Conv2d(1, 3, 8)}, "single layer|outputs of shape"),
        (
            {"model": Small().to("meta")},
            "'first.0.weight' is on the meta device, which holds no values; build it on the CPU",
        ),
        ({"model": 3}, "a network must be a name, a folder, a torch.nn.Module or a function that returns one, not int"),
        ({"methods": ["tied"]}, "tied"),
        ({"methods": None}, "methods=None must be a name, or a method such as"),
        ({"methods": lc.LowRank}, "methods=<class .*> must be a name, or a method such as"),
        ({"where": lambda site: False}, "where=<function .*> matches none of the 4 convolutions"),
        ({"config": {"epochs": 1}}, "config={'epochs': 1} must be TrainConfig"),
        (
            {"controls": {"../x y": lambda setup: setup.teacher}},
            r"controls='../x y' must be letters, digits, .* names a folder",
        ),
        ({"controls": {"own": 3}}, "controls: 'own' must be a function of the Setup that returns a network, not 3"),
        (
            {"recover": None},
            "recover=None must be a function that trains, .* recovery_epochs=0 leaves the training out",
        ),
        ({"metric": "top1"}, "metric='top1' must be a function of a network that returns a number"),
        ({"seed": 2**70}, r"seed=\d+ must be a whole number of at least 0 and at most 1.8\d*e\+19"),
    ],
    ids=[
        "budget",
        "control",
        "name",
        "check",
        "align",
        "setting",
        "model",
        "meta",
        "number",
        "method",
        "None",
        "class",
        "where",
        "config",
        "folder",
        "no control",
        "recover",
        "metric",
        "seed",
    ],
)
def test_wrong_input_says_the_way_out(asked, said, trained, data):
    given = {"model": trained, "data": data, "budget": "macs=0.6", **QUICK, **asked}
    with pytest.raises(SettingError, match=said):
        lc.lean(**given)


def test_a_home_folder_is_expanded(trained, data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = lc.lean(trained, data, "macs=0.6", "~/a", **options())
    assert found.folder == tmp_path / "a" and found.report("~/page.html") == tmp_path / "page.html"
    lc.save(found.network, "~/b")
    assert lc.plan_of(lc.load("~/b", Small())) == found.plan
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "page.html"}


@pytest.mark.parametrize("value", [None, float("nan"), torch.ones(2), "high"], ids=["None", "nan", "two", "text"])
def test_a_metric_that_gives_no_number_fails_before_the_search(value, trained, data, tmp_path):
    with pytest.raises(SettingError, match=r"metric= gives .* for a network; it must return one finite number"):
        lc.lean(trained, data, "macs=0.6", tmp_path, metric=lambda network: value, **options())
    assert not (tmp_path / "costs.json").exists()


def test_a_control_gets_a_copy_of_the_dense_network_and_one_that_returns_none_is_noted(trained, data):
    dense = []

    def same(setup: Any) -> torch.nn.Module:
        dense.append((setup.teacher, weights(setup.teacher)))
        return setup.teacher

    found = lc.lean(trained, data, "macs=0.6", **options(controls={"same": same, "none": lambda setup: None}))
    ((teacher, before),) = dense
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert [row["network"] for row in found.rows] == ["dense", "lean", "same"]
    assert found.summary["notes"] == [
        "none: a network must be a torch.nn.Module, not NoneType; build it with create_model"
    ]


@pytest.mark.parametrize("wrap", [AveragedModel, torch.nn.DataParallel, torch.compile], ids=lambda wrap: wrap.__name__)
def test_the_network_inside_a_wrapper_is_searched_and_its_task_is_kept(wrap, trained, data):
    model = copied(trained)
    lc.note_task(model, classes=("a", "b", "c"), mean=(0.4,), std=(0.3,), image_size=8)
    images = as_images(data)
    found = teacher_of(wrap(model), images, False, None, None, TaskSettings())
    assert type(found) is Small and get_task(found) == get_task(model) and title_of(wrap(model)) == "Small"
    assert {*found.state_dict()} == {*model.state_dict()}


def test_a_frozen_network_is_refused_before_the_search_unless_nothing_trains(trained, data, tmp_path):
    frozen = copied(trained).requires_grad_(False)
    said = r"all parameters of Small are frozen, so nothing trains; call model.requires_grad_\(True\), or leave the recovery out"
    for more in ({"recovery_epochs": 1}, {"controls": ("narrower",)}):
        with pytest.raises(SettingError, match=said):
            lc.lean(frozen, data, "macs=0.6", tmp_path / "a", **options(**more))
    assert not (tmp_path / "a").exists()
    with torch.inference_mode(), pytest.raises(SettingError, match=r"nothing trains within torch\.inference_mode"):
        lc.lean(trained, data, "macs=0.6", **options(recovery_epochs=1))
    with torch.inference_mode():
        assert lc.lean(frozen, data, "macs=0.6", **options()).rows[1]["macs"]


def test_a_lean_network_is_refused(trained, data):
    lean = lc.convert(trained, lc.TiedBlock(2), where="c.0")
    with pytest.raises(SettingError, match="lean already; give the trained dense network"):
        lc.lean(lean, data, "macs=0.6", **QUICK)
