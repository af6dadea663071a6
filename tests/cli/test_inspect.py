"""inspect, models, convert, doctor: the verbs that train nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import leanconv as lc
from tests.ops.contract import OWN


def test_split_on_resnet20_has_the_papers_count(call: Callable) -> None:
    answer = call("inspect", "resnet20", "--method", "split(ratio=0.5)", "--exclude", "conv1", "--json")
    found = json.loads(answer.out)
    assert (found["before"]["params"], found["after"]["params"]) == (272_474, 105_082)
    assert answer.err == ""


@pytest.mark.parametrize("method", [method.name for method in OWN])
def test_layers_add_up(call: Callable, method: str) -> None:
    found = json.loads(call("inspect", "resnet20", "--method", method, "--json").out)
    before, after, layers = found["before"], found["after"], found["layers"]
    for count in ("params", "macs"):
        saved = sum(layer[f"{count}_before"] - layer[f"{count}_after"] for layer in layers)
        assert before[count] - after[count] == saved
    assert after["params"] < before["params"]
    assert any(layer["kept_because"] is None for layer in layers)
    assert all(layer["kept_because"] or layer["method"].startswith(method) for layer in layers)


def test_linear_layers_join_when_included(call: Callable) -> None:
    flags = ("--method", "tied_block(blocks=2)", "--include", "linear", "--exclude", "conv1")
    told = {entry["name"]: entry for entry in json.loads(call("inspect", "resnet8", *flags, "--json").out)["layers"]}
    assert told["fc"]["conv"] == "linear 64->10" and "the classifier" in told["fc"]["kept_because"]
    found = json.loads(call("inspect", "resnet8", *flags, "--where", "fc", "--json").out)
    assert found["before"]["params"] - found["after"]["params"] == 650 - (640 // 4 + 10 // 2)
    assert "8 of 10 layers convert" in call("inspect", "resnet8", *flags, "--where", "layer*").out
    answer = call("inspect", "resnet8", *flags[:2], "--where", "fc")
    assert answer.code == 2 and 'include="linear"' in answer.err


def test_first_convolution_converts_unless_excluded(call: Callable) -> None:
    kept = {
        layer["name"]: layer["kept_because"]
        for layer in json.loads(call("inspect", "resnet8", "--method", "split", "--exclude", "conv1", "--json").out)[
            "layers"
        ]
    }
    assert kept["conv1"] == "excluded"
    layers = json.loads(call("inspect", "resnet8", "--method", "split(groups=1)", "--json").out)["layers"]
    assert next(layer for layer in layers if layer["name"] == "conv1")["kept_because"] is None


def test_table_says_why_a_layer_stays(call: Callable) -> None:
    out = call("inspect", "resnet8", "--method", "tied_block(blocks=2)").out
    assert "dense: blocks=2 must divide in_channels=3" in out
    assert "Whole network" in out
    assert "1 MAC = one multiply-add" in out


def test_nothing_converts_is_an_answer_too(call: Callable) -> None:
    answer = call("inspect", "resnet8", "--method", "tied_block(blocks=5)")
    assert answer.code == 0
    assert "0 of 9 convolutions convert" in answer.out


def test_timm_needs_no_weights(call: Callable) -> None:
    found = json.loads(call("inspect", "timm/resnet18", "--method", "tied_block(blocks=2)", "--json").out)
    dense = lc.create_model("timm/resnet18")
    plan = lc.plan(dense, lc.TiedBlock(blocks=2))
    assert found["before"]["params"] - found["after"]["params"] == plan.params_dense() - plan.params()
    assert found["input_size"] == [3, 224, 224]


def test_convert_saves_what_loads(call: Callable, tmp_path: Path) -> None:
    answer = call("convert", "resnet8", "-m", "shared_basis", "--where", "layer*", "-o", tmp_path / "lean", "--json")
    told = json.loads(answer.out)
    lean = lc.load(tmp_path / "lean")
    assert lc.count(lean).params == told["after"]["params"] < told["before"]["params"]
    assert told["method"] == "shared_basis(shared=8)"
    again = json.loads(call("inspect", tmp_path / "lean", "--json").out)
    assert again["before"]["params"] == told["before"]["params"]
    assert again["after"] == told["after"]
    assert call("inspect", tmp_path / "lean", "--method", "split").code == 2


def test_convert_fits_a_saved_network(call: Callable, tmp_path: Path) -> None:
    dense = lc.create_model("resnet8").eval()
    lc.save(dense, tmp_path / "dense")
    answer = call("convert", tmp_path / "dense", "-m", "tied_block(blocks=1)", "-o", tmp_path / "lean")
    assert answer.code == 0, answer.err
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(lc.load(tmp_path / "lean")(x), dense(x))  # one block is the convolution itself


def test_same_seed_same_weights(call: Callable, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert (
            call("convert", "resnet8", "-m", "split", "--init", "fresh", "--seed", seed, "-o", tmp_path / name).code
            == 0
        )
    a, b, c = (lc.load(tmp_path / name).state_dict() for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["fc.weight"], c["fc.weight"])


def test_models_lists_own_networks(call: Callable) -> None:
    answer = call("models", "--json")
    rows = {row["name"]: row for row in json.loads(answer.out)}
    assert rows["resnet20"]["params"] == 272_474
    assert set(rows) == {entry.name for entry in lc.list_models()}
    table = call("models").out
    assert "He et al. 2016" in table
    assert "272,474" in table


def test_models_searches_everywhere(call: Callable) -> None:
    names = [row["name"] for row in json.loads(call("models", "*/resnet18", "--json").out)]
    assert names == ["timm/resnet18", "torchvision/resnet18"]
    nothing = call("models", "nonesuch", "--json")
    assert nothing.code == 2 and json.loads(nothing.out) == []
    assert "no network matches" in nothing.err


def test_doctor_finds_a_broken_method(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_rng_state()
    healthy = call("doctor", "--json")
    assert torch.equal(torch.get_rng_state(), before), "the user's random numbers stay as they are"
    assert json.loads(healthy.out)["problems"] == [], healthy.out
    assert healthy.code == 0
    monkeypatch.setattr(lc.TiedBlock, "params", lambda self, specs: 1)
    broken = call("doctor")
    assert broken.code == 3
    assert "problem: tied_block" in broken.out


def test_a_warning_is_one_line_on_standard_error():
    words = ["inspect", "resnet8", "--method", "shared_basis(shared=16)", "--exclude", "conv1"]
    code = "from leanconv.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("leanconv: warning: shared_basis costs more MACs")


@pytest.mark.parametrize("flag", ["--exclude", "--where"])
def test_a_glob_that_matches_nothing_is_refused(call: Callable, flag: str) -> None:
    answer = call("inspect", "resnet8", "--method", "split", flag, "conv_1")
    assert answer.code == 2
    assert f"{flag[2:]}='conv_1' matches none of the 9 convolutions ('conv1'" in answer.err


@pytest.mark.parametrize(("init", "said"), [("fit", True), ("fresh", False)])
def test_convert_says_that_a_fit_is_not_trained(call: Callable, tmp_path: Path, init: str, said: bool) -> None:
    answer = call("convert", "resnet8", "-m", "split", "--init", init, "-o", tmp_path / "lean")
    assert answer.code == 0
    assert ("not trained: train it, its accuracy is far below" in answer.err) is said


def test_a_regnet_is_inspected_without_weights(call: Callable) -> None:
    found = json.loads(call("inspect", "torchvision/regnet_y_400mf", "--method", "tied_block", "--json").out)
    assert found["before"]["macs"] == 401_842_848 and found["uncounted"] == []
    assert any(layer["kept_because"] is None for layer in found["layers"])
