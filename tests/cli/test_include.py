"""``--include linear`` in the verbs that write something."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import leanconv as lc

LINEAR = ("--method", "tied_block(blocks=2)", "--include", "linear", "--where", "fc")


def converted(folder: Path) -> list[tuple[str, str]]:
    plan = lc.plan_of(lc.load(folder))
    return [(site.name, site.kind) for group in plan.groups for site in group.sites]


def test_convert(call: Callable, tmp_path: Path) -> None:
    assert call("convert", "resnet8", *LINEAR, "--out", tmp_path).code == 0
    assert converted(tmp_path) == [("fc", "linear")]


def test_a_run_says_so_and_is_continued_only_with_it(call: Callable, tmp_path: Path) -> None:
    train = ("train", "resnet8", "--epochs", "1", "--batch-size", "512", "--out", tmp_path)
    assert call(*train, *LINEAR).code == 0
    assert json.loads((tmp_path / "run.json").read_text())["include"] == "linear"
    assert converted(tmp_path) == [("fc", "linear")]
    again = call(*train, *LINEAR[:2], "--resume")
    assert again.code == 2 and "include" in again.err


def test_a_run_without_it_does_not_mention_it(call: Callable, tmp_path: Path) -> None:
    call("train", "resnet8", "--epochs", "1", "--batch-size", "512", "--out", tmp_path)
    assert "include" not in json.loads((tmp_path / "run.json").read_text())
