"""--config: flags from a file, the ones that are typed win, and config.yaml of a run repeats it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.cli.test_data_sets import folders

from .conftest import TINY, one_line


def same_weights(first: Path, second: Path) -> bool:
    one, two = (load_file(folder / "model.safetensors") for folder in (first, second))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_config_yaml_of_a_run_repeats_it(call: Callable, tmp_path: Path) -> None:
    command = (
        "train",
        "resnet8(width=4)",
        "--method",
        "split(ratio=0.25)",
        "--exclude",
        "*2",
        "--lr",
        0.03,
        "--seed",
        5,
        *TINY,
    )
    assert call(*command, "--ema", 0.5, "--out", tmp_path / "x").code == 0
    answer = call("train", "--config", tmp_path / "x" / "config.yaml", "--out", tmp_path / "y", "--json")
    assert answer.code == 0, answer.err
    assert same_weights(tmp_path / "x", tmp_path / "y")
    assert (tmp_path / "x" / "run.json").read_text() == (tmp_path / "y" / "run.json").read_text()
    assert (tmp_path / "x" / "config.yaml").read_text() == (tmp_path / "y" / "config.yaml").read_text()
    answer = call("train", "--config", tmp_path / "x" / "config.yaml", "--seed", 6, "--out", tmp_path / "z", "--json")
    assert json.loads(answer.out)["seed"] == 6 and not same_weights(tmp_path / "x", tmp_path / "z")


def test_a_run_of_a_comparison_on_a_folder_is_repeated_too(
    call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders(tmp_path / "photos", "cat", "dog", parts=("",), count=8)
    monkeypatch.chdir(tmp_path)
    command = ("compare", "resnet8(width=4)", "--methods", "dense,split", "--data", "photos", "--test-split", 0.25)
    answer = call(*command, "--batch-size", 4, "--out", "all", *TINY)
    assert answer.code == 0, answer.err
    run = tmp_path / "all" / "split-ratio=0.5" / "seed0"
    monkeypatch.chdir(tmp_path / "photos")
    answer = call("train", "--config", run / "config.yaml", "--out", tmp_path / "again")
    assert answer.code == 0, answer.err
    assert same_weights(run, tmp_path / "again"), "the stem stays dense there too"


def test_a_file_written_by_hand(call: Callable, tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(
        'target: resnet8(width=4)\nmethod: split\nepochs: 1\nthreads: 1\nlr: 5e-2\nwhere: ["*conv1"]\nmilestones: [0.25, 0.5]\n'
    )
    answer = call("train", "--config", tmp_path / "quick.yaml", "--out", tmp_path / "run", "--json")
    assert answer.code == 0, answer.err
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["target"], run["method"], run["where"]) == ("resnet8(width=4)", "split(ratio=0.5)", ["*conv1"])
    assert (run["train"]["lr"], run["train"]["milestones"], run["train"]["batch_size"]) == (0.05, [0.25, 0.5], 32)
    (tmp_path / "all.yaml").write_text(
        "targets: [resnet8(width=4)]\nmethods: dense,split\nepochs: 1\nthreads: 1\nseeds: 2\n"
    )
    answer = call("compare", "--config", tmp_path / "all.yaml", "--seeds", 1, "--out", tmp_path / "all", "--json")
    assert answer.code == 0, answer.err
    assert [row["seeds"] for row in json.loads(answer.out)["rows"]] == [[0], [0]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 3", ("epoch=3: no such setting; did you mean epochs?",)),
        ("zzz: 3", ("zzz=3: no such setting; valid are target, out",)),
        ("config: x.yaml", ("config='x.yaml': no such setting",)),
        ("epochs: 0", ("epochs=0 must be a whole number of at least 1",)),
        ("lr: fast", ("lr='fast' must be a number above 0",)),
        ("schedule: cos", ("schedule='cos' must be 'cosine',",)),
        ("milestones: 0.5", ("milestones=0.5 must be a list",)),
        ("pretrained: 1", ("pretrained=1 does not fit", "true or false")),
        ("where: layer1", ("where='layer1' does not fit", "a list")),
        ("method: [a]", ("method=['a'] does not fit", "one value")),
        ("init: fitted", ("init='fitted' does not fit", "'fresh', 'fit'")),
        ("- a", ("is no mapping of names to values",)),
        ("a: [", ("cannot be read as YAML",)),
        ("request: 3", ("its request is no mapping",)),
        ("method: tied_blok", ("did you mean 'tied_block'",)),
    ],
)
def test_a_mistake_in_it_is_one_line(call: Callable, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "x.yaml").write_text(text)
    answer = call("train", "resnet8", "--config", tmp_path / "x.yaml", "--out", tmp_path / "run")
    assert answer.code == 2 and one_line(answer, *words), answer.err
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_is_one_line(call: Callable, tmp_path: Path) -> None:
    answer = call("train", "resnet8", "--config", tmp_path / "no.yaml", "--out", tmp_path / "run")
    assert answer.code == 2 and one_line(answer, "no.yaml", "cannot be read")


def test_what_config_yaml_notes_is_plain(call: Callable, tmp_path: Path) -> None:
    assert call("train", "resnet8(width=4)", "--out", tmp_path, *TINY).code == 0
    found = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert found["request"] == {
        "target": "resnet8(width=4)", "method": "dense", "where": [], "exclude": [], "init": "fresh", "pretrained": False,
        "data": "digits", "device": "auto",
    }  # fmt: skip
