"""compare, train and eval: one epoch on the digits each, a few where a run is interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from leanconv.core.errors import FileError, RunError, SettingError
from leanconv.experiment import conclude, ready, run
from leanconv.report import markdown_of

from .conftest import TINY, one_line

SCHEMA = Path(__file__).parents[2] / "results" / "schema.json"
METHODS = "dense,tied_block(blocks=2)"
LATENCIES = [f"latency_{what}{end}" for what in ("ms", "ratio") for end in ("", "_q25", "_q75")]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that `fit` is called for, in order."""
    fit, folders = run.fit, []

    def record(model: Any, data: Any, config: Any, out: Path, **options: Any) -> Any:
        folders.append("/".join(out.parts[-2:]))
        return fit(model, data, config, out, **options)

    monkeypatch.setattr(run, "fit", record)
    return folders


def test_several_networks_in_one_table(call: Callable, tmp_path: Path) -> None:
    command = ("compare", "resnet8", "resnet8(width=8)", "--data", "digits", "--out", tmp_path, *TINY)
    answer = call(*command, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert [row["method"] for row in told["rows"]] == ["resnet8", "resnet8(width=8)"]
    assert [row["ratios_to"] for row in told["rows"]] == ["resnet8"] * 2
    assert told["rows"][1]["params_ratio"] == told["rows"][1]["params"] / told["rows"][0]["params"] < 0.3
    assert "resnet8(width=8): better in parameters (0.25 of resnet8)" in (tmp_path / "report.md").read_text()
    assert one_line(call(*command, "--methods", "dense,tied_block", "resnet8"), "resnet8 is given twice")


def test_compare_from_start_to_report(call: Callable, tmp_path: Path, trained: list[str]) -> None:
    command = ("compare", "resnet8", "--data", "digits", "--out", tmp_path / "out", *TINY)
    answer = call(*command, "--methods", METHODS, "--seeds", 2, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert trained == [f"{name}/seed{seed}" for seed in (0, 1) for name in ("dense", "tied_block-blocks=2")]
    jsonschema.validate(told, json.loads(SCHEMA.read_text()))
    dense, lean = told["rows"]
    assert (dense["method"], lean["method"]) == ("dense", "tied_block(blocks=2)")
    assert lean["params_ratio"] == lean["params"] / dense["params"] < 0.5
    assert lean["macs_ratio"] == lean["macs"] / dense["macs"] < 0.6
    assert dense["latency_ratio"] == 1
    assert all(row[name] > 0 for row in told["rows"] for name in LATENCIES)
    scores = list(lean["test_top1_pct_by_seed"].values())
    assert lean["test_top1_pct"] == pytest.approx(sum(scores) / 2)
    assert lean["test_top1_pct_std"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
    assert (told["n"], told["seeds"], told["kind"]) == (2, [0, 1], "compare")
    assert told["settings"]["train"]["epochs"] == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "tied_block(blocks=2)" in page
    assert page.count("<svg") == 4 and "Layer by layer" in page
    assert markdown_of(tmp_path / "out" / "summary.json") in (tmp_path / "out" / "report.md").read_text()

    trained.clear()  # finished runs are kept, another method joins them, and the report then has all three
    answer = call(*command, "--methods", "dense,depth_shared")
    assert answer.code == 0, answer.err
    assert trained == ["depth_shared-scope=network/seed0"]
    assert "dense, seed 0: finished before" in answer.err
    again = {row["method"]: row for row in json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]}
    assert {label: row["n"] for label, row in again.items()} == {
        "dense": 2,
        "depth_shared(scope='network')": 1,
        "tied_block(blocks=2)": 2,
    }
    assert again["dense"]["test_top1_pct_by_seed"] == dense["test_top1_pct_by_seed"]
    assert "Test top-1 %" in answer.out
    assert "report: " in answer.out

    trained.clear()  # other settings do not belong into one table
    answer = call(*command, "--methods", "dense", "--lr", "0.01")
    assert answer.code == 2
    assert one_line(answer, "train.lr is 0.05 there and 0.01 here", "--out")
    assert trained == []


def test_interrupted_comparison_continues(call: Callable, tmp_path: Path) -> None:
    command = ("compare", "resnet8", "--methods", METHODS, "--epochs", 6, "--threads", 1)
    metrics = tmp_path / "out" / "tied_block-blocks=2" / "seed0" / "metrics.jsonl"

    def interrupt() -> None:
        while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    answer = call(*command, "--out", tmp_path / "out")
    thread.join()
    assert answer.code == 130
    assert "the same command continues" in answer.err
    assert (metrics.parent / "last.ckpt").exists()
    stopped_at = metrics.read_text().count("\n")
    assert 2 <= stopped_at < 6
    assert not (tmp_path / "out" / "summary.json").exists()

    dense = (tmp_path / "out" / "dense" / "seed0" / "summary.json").stat().st_mtime_ns
    answer = call(*command, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert (tmp_path / "out" / "dense" / "seed0" / "summary.json").stat().st_mtime_ns == dense
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]

    assert call(*command, "--out", tmp_path / "whole").code == 0
    broken, whole = (json.loads((tmp_path / name / "summary.json").read_text())["rows"] for name in ("out", "whole"))
    for name in ("test_top1_pct", "val_top1_pct"):
        assert [row[name] for row in broken] == [row[name] for row in whole]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RunError("the loss is not finite at epoch 1"), "the loss is not finite at epoch 1"),
        (ValueError("Out of range float values"), "ValueError: Out of range float values"),
    ],
)
def test_a_failing_run_does_not_lose_the_others(
    error: Exception, reason: str, call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = run.fit

    def fail(model: Any, data: Any, config: Any, out: Path, **options: Any) -> Any:
        if "tied" in str(out):
            raise error
        return fit(model, data, config, out, **options)

    monkeypatch.setattr(run, "fit", fail)
    answer = call("compare", "resnet8", "--methods", f"{METHODS},split", "--out", tmp_path / "out", *TINY)
    assert answer.code == 1
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]
    assert [row["test_top1_pct"] is None for row in rows] == [False, True, False]
    assert rows[1]["failed"] == f"seed 0: {reason}"
    assert rows[1]["params"] < rows[0]["params"]
    assert f"failed: seed 0: {reason}" in " ".join((tmp_path / "out" / "report.md").read_text().split())
    assert f"failed: seed 0: {reason}" in (tmp_path / "out" / "report.html").read_text()


def test_what_fails_after_training_keeps_the_weights(
    call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no such luck")

    command = ("train", "resnet8", "--out", tmp_path / "run", *TINY)
    with monkeypatch.context() as patched:
        patched.setattr(conclude, "evaluate", fail)
        answer = call(*command)
    assert answer.code == 1
    assert one_line(answer, "trained, and then failed: RuntimeError: no such luck", "--resume", "tries again")
    assert (tmp_path / "run" / "model.safetensors").exists() and (tmp_path / "run" / "last.ckpt").exists()
    answer = call(*command, "--resume", "--json")
    assert answer.code == 0 and "epoch 1/1" not in answer.err
    assert json.loads(answer.out)["test"]["n"] == 355


def test_what_cannot_be_counted_is_said_before_training(
    call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    def fail(*arguments: Any) -> None:
        raise SettingError("this cannot be counted")

    monkeypatch.setattr(ready, "count", fail)
    answer = call("train", "resnet8", "--out", tmp_path / "run", *TINY)
    assert answer.code == 2 and one_line(answer, "this cannot be counted")
    assert trained == [] and not (tmp_path / "run").exists()


def test_a_network_that_does_not_load_costs_its_layers_and_not_the_run(
    call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise FileError("it cannot be built")

    command = ("compare", "resnet8", "--methods", METHODS, "--out", tmp_path, *TINY, "--json")
    assert call(*command).code == 0
    monkeypatch.setattr(run, "load", fail)  # of the finished runs
    answer = call(*command)
    assert answer.code == 0, answer.err
    rows = json.loads(answer.out)["rows"]
    assert [row["latency_ms"] for row in rows] == [None, None] and all(row["test_top1_pct"] > 0 for row in rows)
    assert "dense: its latency is not measured and its layers are not shown: it cannot be built" in answer.err
    assert (tmp_path / "report.html").exists()


def test_leftovers_of_a_killed_start_do_not_refuse_the_next(call: Callable, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".run.json.abcd1234", ".model.safetensors.abcd1234"):
        (tmp_path / "run" / name).write_text("{")
    assert call("train", "resnet8", "--out", tmp_path / "run", *TINY).code == 0
    assert {path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")} <= {".lock"}


def test_every_mistake_comes_before_training(call: Callable, tmp_path: Path, trained: list[str]) -> None:
    answer = call(
        "compare", "resnet8", "--methods", f"{METHODS},tied_block(blocks=5)", "--out", tmp_path / "out", *TINY
    )
    assert answer.code == 2
    assert one_line(answer, "tied_block(blocks=5) converts none")
    assert trained == []
    answer = call("compare", "resnet8", "--methods", METHODS, "--where", "zzz*", "--out", tmp_path / "out", *TINY)
    assert answer.code == 2
    assert one_line(answer, "matches none")
    assert trained == []


def test_train_then_eval(call: Callable, tmp_path: Path, trained: list[str]) -> None:
    command = ("train", "resnet8", "--method", "split", "--out", tmp_path / "run", *TINY, "--json")
    answer = call(*command)
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["test"]["n"] == 355
    scores = json.loads(call("eval", tmp_path / "run", "--precision", "bf16", "--json").out)
    assert scores["top1_pct"] == pytest.approx(told["test"]["top1_pct"], abs=0.3)
    assert "on 1,442 images" in call("eval", tmp_path / "run", "--part", "train").out
    assert "355 images" in call("eval", tmp_path / "run", "--ten-crop").out
    assert len(trained) == 1

    assert json.loads(call(*command).out) == told  # finished: read back, not trained or tested again
    assert len(trained) == 1
    other = call(*command, "--seed", 3)
    assert other.code == 2
    assert one_line(other, "seed is 0 there and 3 here")
    run = (tmp_path / "run" / "summary.json").read_text()
    (tmp_path / "run" / "summary.json").write_text(re.sub('"finished"', '"started"', run))
    assert one_line(call(*command), "add --resume")
    assert json.loads(call(*command, "--resume").out)["test"] == told["test"]


def test_a_run_that_diverges_is_1(call: Callable, tmp_path: Path) -> None:
    answer = call("train", "resnet8", "--out", tmp_path / "run", *TINY, "--lr", "1e12", "--schedule", "constant")
    assert answer.code == 1
    assert one_line(answer, "not finite", "lower lr")


def test_a_folder_of_something_else_is_left_alone(call: Callable, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    answer = call("train", "resnet8", "--out", tmp_path, *TINY)
    assert answer.code == 2
    assert one_line(answer, "holds something else")


def test_a_corrupt_run_is_one_line(call: Callable, tmp_path: Path) -> None:
    command = ("compare", "resnet8", "--methods", "dense", "--out", tmp_path / "out", *TINY)
    (tmp_path / "out" / "dense" / "seed0").mkdir(parents=True)
    (tmp_path / "out" / "dense" / "seed0" / "run.json").write_text("{")
    answer = call(*command)
    assert answer.code == 2
    assert one_line(answer, "run.json is not JSON")


def test_eval_refuses_other_classes(call: Callable, tmp_path: Path) -> None:
    import leanconv as lc

    lc.save(lc.create_model("resnet8", num_classes=7, in_chans=1), tmp_path / "seven")
    answer = call("eval", tmp_path / "seven")
    assert answer.code == 2
    assert one_line(answer, "digits has 10 classes")


def test_a_lean_network_that_is_trained_further_keeps_its_name(call: Callable, tmp_path: Path) -> None:
    call("convert", "resnet8(in_chans=1)", "-m", "tied_block(blocks=2)", "-o", tmp_path / "lean")
    answer = call("train", tmp_path / "lean", "-o", tmp_path / "run", "--epochs", 1, "--precision", "bf16")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("tied_block(blocks=2): test top-1") and "images in bfloat16;" in answer.out


def test_a_wrong_choice_names_the_nearest(call: Callable, tmp_path: Path) -> None:
    answer = call("train", "resnet8", "-o", tmp_path / "run", "--schedule", "onecycl")
    assert answer.code == 2 and "did you mean 'onecycle'?" in answer.err and "Value error" not in answer.err
