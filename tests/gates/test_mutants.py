"""The mutants of `benchmarks/mutants.py` are faults in the package as it is now."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest

from tests.gates.tree import ROOT


@pytest.fixture(scope="module")
def mutants() -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as for a program that is started there; it imports its neighbour
    spec = importlib.util.spec_from_file_location("mutants_of_the_package", ROOT / "benchmarks" / "mutants.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up its annotations
    spec.loader.exec_module(module)
    sys.path.remove(str(ROOT / "benchmarks"))
    return module


def test_each_text_stands_once_in_its_file(mutants: Any) -> None:
    assert mutants.faults(mutants.MUTANTS) == []
    assert len({mutant.name for mutant in mutants.MUTANTS}) == len(mutants.MUTANTS) >= 50


def test_a_text_that_is_gone_is_seen(mutants: Any) -> None:
    gone = mutants.area("x", "core/spec.py", "tests/core/test_spec.py", ("nowhere", "y"), ("import", "y"))
    found = mutants.faults(gone)
    assert "stands 0 times" in found[0] and "times in its file" in found[1]


def test_an_outcome_is_what_the_tests_say(mutants: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A mutant is applied for its own tests only, and an outcome that is known is not computed again."""
    one, two = mutants.area(
        "x", "core/modes.py", "tests/core/test_spec.py", ("from contextlib", "#"), ("def evaluating", "def evaluated")
    )
    seen = []

    def run(tree: Any, tests: Any, timeout: float) -> tuple[str, float]:
        text = (tree / "leanconv/core/modes.py").read_text()
        seen.append(("from contextlib" in text, "def evaluating" in text))
        return ("passed" if all(seen[-1]) or not seen[-1][1] else "killed"), 0.1

    def copy(to: Any) -> None:
        (to / "leanconv/core").mkdir(parents=True)
        (to / "leanconv/core/modes.py").write_text((ROOT / "leanconv/core/modes.py").read_text())

    monkeypatch.setattr(mutants, "run_tests", run)
    monkeypatch.setattr(mutants, "copy_tree", copy)
    for _ in range(2):
        found = mutants.judge([one, two], tmp_path / "state.json", 1.0)
        assert [found[mutant.name]["outcome"] for mutant in (one, two)] == ["killed", "survived"]
    assert seen == [(True, True), (False, True), (True, False)]
