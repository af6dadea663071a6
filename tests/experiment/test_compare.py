"""lc.compare, as a notebook calls it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.experiment import EpochEnded, Measuring, RunFailed, RunStarted, job
from leanconv.experiment.grid import methods_of
from leanconv.files import load, target

from .conftest import QUICK, Listed, Net

DIGITS: dict[str, Any] = {"epochs": 1, "threads": 1, "progress": False}
METHODS = ["dense", "tied_block(blocks=2)"]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leanconv.experiment.compare.LATENCY_SECONDS", 0.05)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the networks that are built, in order."""
    build, built = lc.create_model, []

    def record(name: str, *arguments: Any, **settings: Any) -> Any:
        built.append(name.partition("(")[0])
        return build(name, *arguments, **settings)

    for module in (target, load):
        monkeypatch.setattr(module, "create_model", record)
    return built


def test_networks_and_methods_by_name(tmp_path: Path) -> None:
    found = lc.compare("resnet8(width=4)", METHODS, out=tmp_path, latency=False, **DIGITS)
    dense, lean = found.rows
    assert (dense["method"], lean["method"]) == ("dense", "tied_block(blocks=2)")
    assert lean["params_ratio"] == lean["params"] / dense["params"] < 0.5
    assert found.to_json() == json.loads((tmp_path / "summary.json").read_text())
    assert (tmp_path / "tied_block-blocks=2" / "seed0" / "model.safetensors").exists()
    assert {path.name for path in tmp_path.iterdir()} >= {"report.html", "report.md", "summary.json"}
    frame = found.to_pandas()
    assert list(frame["method"]) == METHODS and list(frame["params"]) == [dense["params"], lean["params"]]
    assert "tied_block(blocks=2)" in found._repr_html_() and "tied_block(blocks=2)" in str(found)
    assert found.report(tmp_path / "page.html").read_text() == (tmp_path / "report.html").read_text()


def test_networks_of_the_users_with_seeds(net: Net, pair: tuple[Listed, Listed]) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    lean = lc.convert(net, lc.TiedBlock(blocks=2), where="3", input_size=(1, 8, 8))
    events: list[Any] = []
    found = lc.compare({"plain": net, "tied": lean}, pair, seeds=2, **QUICK | {"progress": events.append})
    assert [(row["method"], row["n"], row["ratios_to"]) for row in found.rows] == [
        ("plain", 2, "plain"),
        ("tied", 2, "plain"),
    ]
    assert all(row["latency_ms"] > 0 for row in found.rows)
    assert found.rows[1]["params"] == sum(p.numel() for p in lean.parameters()) < found.rows[0]["params"]
    assert lc.plan_of(found.networks["tied"]) == lc.plan_of(lean) and found.folder is None
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), "each run trains a copy"
    kinds = [type(event) for event in events]
    assert kinds == [RunStarted, EpochEnded, EpochEnded] * 4 + [Measuring]
    assert str(events[0]) == "[1/4] plain, seed 0"


def test_a_network_of_the_users_under_methods(net: Net, pair: tuple[Listed, Listed]) -> None:
    found = lc.compare(net, pair, methods=[None, lc.TiedBlock(blocks=2)], latency=False, **QUICK)
    assert [row["method"] for row in found.rows] == METHODS
    kept = lc.plan_of(found.networks["tied_block(blocks=2)"])
    assert kept is not None and [site.name for group in kept.groups for site in group.sites] == ["3"], "the stem stays"


def test_a_function_starts_each_seed_anew_and_a_network_does_not(
    net: Net, pair: tuple[Listed, Listed], monkeypatch: Any
) -> None:
    starts: dict[str, list[torch.Tensor]] = {}
    make = job.Job.build

    def record(self: Any) -> Any:
        network = make(self)
        starts.setdefault(self.label, []).append(network.get_parameter("0.weight").detach().clone())
        return network

    monkeypatch.setattr(job.Job, "build", record)
    lc.compare({"function": Net, "network": net}, pair, seeds=2, latency=False, **QUICK | {"epochs": 1})
    assert not torch.equal(*starts["function"]) and torch.equal(*starts["network"])


def test_each_network_is_built_once(tmp_path: Path, builds: list[str]) -> None:
    """Fourteen times before there was this package: to count, to train, and twice each to measure and to show its layers."""
    lc.compare("resnet8(width=4)", METHODS, out=tmp_path, seeds=2, **DIGITS)
    assert builds == ["resnet8"] * 4
    builds.clear()
    lc.compare("resnet8(width=4)", METHODS, out=tmp_path, seeds=2, **DIGITS)
    assert len(builds) == 4, "each of two is read back once: its shapes, then itself"
    builds.clear()
    lc.fit("resnet8(width=4)", "digits", out=tmp_path / "run", method=METHODS[1], **DIGITS)
    assert builds == ["resnet8"]


def test_the_same_weights_as_one_run_alone(tmp_path: Path) -> None:
    found = lc.compare(
        "resnet8(width=4)", ["dense", "split"], out=tmp_path / "all", keep_stem=False, latency=False, **DIGITS
    )
    alone = lc.fit("resnet8(width=4)", "digits", method="split", **DIGITS)
    several = found.networks["split(ratio=0.5)"].state_dict()
    assert all(torch.equal(value, several[name]) for name, value in alone.network.state_dict().items())


def test_a_failing_run_is_an_event_and_a_row(net: Net, pair: tuple[Listed, Listed], monkeypatch: Any) -> None:
    from leanconv.experiment import run

    fit, events = run.fit, []

    def fail(network: Any, *arguments: Any, **options: Any) -> Any:
        if lc.plan_of(network):
            raise ValueError("no such luck")
        return fit(network, *arguments, **options)

    monkeypatch.setattr(run, "fit", fail)
    found = lc.compare(net, pair, methods=METHODS, latency=False, **QUICK | {"progress": events.append})
    assert found.rows[1]["failed"] == "seed 0: ValueError: no such luck" and found.rows[0]["failed"] is None
    (failed,) = (event for event in events if isinstance(event, RunFailed))
    assert str(failed) == "tied_block(blocks=2), seed 0 failed: ValueError: no such luck"


def test_one_row_holds_one_method_on_one_network(pair: tuple[Listed, Listed], tmp_path: Path) -> None:
    asked: dict[str, Any] = {"out": tmp_path, "latency": False, **QUICK, "epochs": 1}

    def of(width: int) -> Any:
        return lambda: Net(width)

    lc.compare(
        {"a": of(8), "b": of(4)}, pair, methods={"dense": None, "mine": lc.TiedBlock(blocks=2)}, seeds=2, **asked
    )
    more = lc.compare({"a": of(8), "b": of(4)}, pair, methods={"mine": lc.TiedBlock(blocks=2)}, seed=2, **asked)
    assert {row["method"]: row["n"] for row in more.rows} == {"a mine": 3, "b mine": 3, "a": 2, "b": 2}
    for models, method, said in (
        (
            {"a": of(8), "b": of(4)},
            lc.Split(),
            r"mine/seed\d was .*: method is 'tied_block\(blocks=2\)' there and 'split",
        ),
        ({"a": of(8), "b": of(16)}, lc.TiedBlock(blocks=2), r"b-mine/seed\d was run with other settings: built is"),
        ({"a": Net(8), "b": of(4)}, lc.TiedBlock(blocks=2), r"a-mine/seed\d was run with other settings: built is"),
    ):
        with pytest.raises(SettingError, match=said):
            lc.compare(models, pair, methods={"mine": method}, seed=3, **asked)


def test_two_networks_of_one_class_are_read_back(pair: tuple[Listed, Listed], tmp_path: Path) -> None:
    asked: dict[str, Any] = {"out": tmp_path, "latency": False, **QUICK, "epochs": 1}
    first, again = (lc.compare({"a": Net(8), "b": Net(4)}, pair, **asked) for _ in range(2))
    assert first.rows == again.rows


def test_no_ratio_of_times_to_a_network_that_failed(net: Net, pair: tuple[Listed, Listed], monkeypatch: Any) -> None:
    from leanconv.experiment import run

    fit = run.fit

    def fail(network: Any, *arguments: Any, **options: Any) -> Any:
        if lc.plan_of(network) is None:
            raise ValueError("no such luck")
        return fit(network, *arguments, **options)

    monkeypatch.setattr(run, "fit", fail)
    found = lc.compare(net, pair, methods=["dense", "tied_block(blocks=2)", "split"], **QUICK)
    assert [row["latency_ms"] is None for row in found.rows] == [True, False, False]
    ratios = [value for row in found.rows for name, value in row.items() if name.startswith("latency_ratio")]
    assert ratios == [None] * 3 * 5
    assert "parameters" in found.sentences()[0] and not any("measured latency" in said for said in found.sentences())
    assert found._repr_html_() and "dense" in str(found)


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = lc.compare("resnet8(width=4)", METHODS, latency=False, **DIGITS)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SettingError, match=r"pip install 'leanconv\[pandas\]'"):
        found.to_pandas()


@pytest.mark.parametrize(
    ("models", "settings", "words"),
    [
        ("resnet8", {}, "nothing to compare resnet8 with"),
        ({"one": "resnet8"}, {}, "nothing to compare one with"),
        (["resnet8", "resnet8"], {}, "resnet8 is given twice"),
        ("resnet8", {"methods": ["split", lc.Split()]}, "split(ratio=0.5) is given twice"),
        ("resnet8", {"methods": METHODS, "test_split": 0.5}, "digits has a test part: leave test_split out"),
    ],
)
def test_a_mistake_is_one_line(models: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError) as caught:
        lc.compare(models, **DIGITS | settings)
    assert words in str(caught.value)


def test_methods_in_every_form() -> None:
    expected = {"dense": None, "split(ratio=0.5)": lc.Split()}
    for given in ("dense,split", ["dense", "split"], [None, lc.Split()], ("dense,split",), expected):
        assert methods_of(given) == expected
    assert methods_of({"half": lc.Split()}) == {"half": lc.Split()} and methods_of(None) == {"dense": None}


def test_200_finished_runs_are_read_back(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"methods": METHODS, "out": tmp_path, "latency": False, **DIGITS}
    lc.compare("resnet8(width=4)", **asked)
    for method in ("dense", "tied_block-blocks=2"):
        first = tmp_path / method / "seed0"
        for seed in range(1, 100):
            other = shutil.copytree(
                first, tmp_path / method / f"seed{seed}", ignore=shutil.ignore_patterns("*.ckpt", "*.st*")
            )
            for name in ("run.json", "summary.json"):
                values = json.loads((first / name).read_text())
                (other / name).write_text(json.dumps(values | {"seed": seed}))
    found = lc.compare("resnet8(width=4)", seeds=100, **asked)
    assert [row["n"] for row in found.rows] == [100, 100]
    assert len((tmp_path / "report.html").read_text()) < 2_000_000
    with pytest.raises(SettingError, match=r"was run with other settings: train\.lr"):
        lc.compare("resnet8(width=4)", seeds=100, lr=0.3, **asked)


def test_a_folder_may_be_a_path(tmp_path: Path) -> None:
    quick = {"epochs": 1, "threads": 1, "progress": False}
    lc.fit("resnet8(width=4)", "digits", out=tmp_path / "run", **quick)
    again = lc.fit(tmp_path / "run", "digits", **quick)
    assert again.counts["params"] == lc.count(lc.load(tmp_path / "run")).params
    found = lc.compare([tmp_path / "run", "resnet8(width=4)"], "digits", latency=False, **quick)
    assert [row["method"] for row in found.rows] == [str(tmp_path / "run"), "resnet8(width=4)"]
    with pytest.raises(SettingError, match="load a folder with leanconv"):
        lc.export(tmp_path / "run", tmp_path / "net.onnx")
