"""lc.bench on networks of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.inference.race import race

FAST = {"input_size": (3, 16, 16), "threads": 1, "seconds": 0.05}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def own() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)).train()


def test_networks_under_methods_are_rows(tmp_path: Path) -> None:
    model = own()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lines: list[str] = []
    result = lc.bench({"net": model}, [None, lc.TiedBlock(2)], batch=(1, 2), progress=lines.append, **FAST)
    assert [(row["batch"], row["network"], row["form"]) for row in result.rows] == [
        (batch, network, form)
        for batch in (1, 2)
        for network in ("net", "net tied_block(blocks=2)")
        for form in ("as it is", "optimized")
    ]
    assert all(row["latency_ms"] > 0 for row in result.rows)
    assert json.loads(json.dumps(result.to_json()))["kind"] == "latency"
    assert "tied_block" in str(result) and "<table>" in result._repr_html_()
    assert "leanconv bench" in result.report(tmp_path / "page.html").read_text()
    assert lines[0] == "preparing net, eager, as it is"
    assert model.training and all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_network_that_cannot_be_built_is_a_row() -> None:
    def broken() -> nn.Module:
        raise SettingError("no such weights")

    result = lc.bench({"net": own, "broken": broken}, **FAST)
    assert {row["network"]: row["failed"] for row in result.rows if row["failed"]} == {"broken": "no such weights"}
    with pytest.raises(SettingError, match="no such weights"):
        lc.bench({"broken": broken}, **FAST)
    reversed_ = lc.bench({"broken": broken, "net": own}, **FAST).rows
    assert reversed_[0]["network"] == "broken" and {row["ratio"] for row in reversed_} == {None}


def test_modules_without_names_are_named_by_what_they_are() -> None:
    names = {row["network"] for row in lc.bench([own(), own()], **FAST).rows}
    assert names == {"Sequential #1", "Sequential #2"}


def test_one_runtime_needs_no_tuple() -> None:
    assert {row["runtime"] for row in lc.bench(own(), runtimes="eager", **FAST).rows} == {"eager"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch": 0}, "batch=0 must be a whole number"),
        ({"precision": "fp8"}, "precision='fp8' must be"),
        ({"runtimes": ("tpu",)}, "runtime='tpu' must be one of"),
        ({"runtimes": "tpu"}, "runtime='tpu' must be one of"),
        ({"input_size": None}, "choose one with --input-size"),
        ({"batch": 2.5}, "batch=2.5 must be a whole number"),
        ({"batch": ()}, r"batch=\(\) holds no number of images; give one"),
        ({"threads": 0}, "threads=0 must be a whole number of at least 1"),
        ({"threads": 1.5}, "threads=1.5 must be a whole number of at least 1"),
        ({"seconds": "1"}, "seconds='1' must be a number of at least 0"),
        ({"input_size": 8}, r"input_size=8 must be \(channels, height, width\)"),
        ({"device": "gpu"}, "device='gpu' cannot be timed; use 'cpu' or 'cuda'"),
        ({"device": "mps"}, "device='mps' cannot be timed"),
        ({"methods": "split"}, "methods holds 'split', which is no method; give objects"),
        ({"models": {"a": "resnet8"}}, "a is 'resnet8'; give a torch.nn.Module or a function that builds one"),
    ],
)
def test_mistakes_say_the_way_out(settings: dict[str, object], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        lc.bench(**({"models": own()} | FAST | settings))


@pytest.mark.parametrize("settings", [{"runtimes": ("tpu",)}, {"precision": "fp8"}, {"batch": 0}, {"device": "cuda"}])
def test_a_mistake_is_refused_before_a_network_is_built(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> nn.Module:
        raise AssertionError("the network was built")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError):
        lc.bench({"never": never}, **(FAST | settings))


@pytest.mark.parametrize("settings", [{"runtime": "tensorrt", "measured": False}, {"threads": 0}, {"threads": 1.5}])
def test_optimize_refuses_what_it_cannot_measure_with(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"{next(iter(settings))}=.* must be"):
        lc.optimize(own(), torch.zeros(1, 3, 16, 16), **settings)


def test_the_forms_of_a_race_go_by_name() -> None:
    x = torch.zeros(1, 3, 16, 16)
    assert {entry.form for entry in race({"a": own()}, x, forms=("as it is",), seconds=0.05)} == {"as it is"}
    with pytest.raises(SettingError, match="form='fast' must be 'as it is' or 'optimized'"):
        race({"a": own()}, x, forms=("fast",))
