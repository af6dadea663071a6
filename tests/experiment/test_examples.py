"""The examples of docstrings and of docs/training.md run."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.gates.tree import ROOT

MODULES = ("core.config", "experiment.fit", "experiment.compare", "conversion.useful")


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name: str) -> None:
    found = doctest.testmod(import_module(f"leanconv.{name}"), optionflags=doctest.ELLIPSIS)
    assert found.attempted and not found.failed


def test_examples_of_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leanconv.experiment.compare.LATENCY_SECONDS", 0.05)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    section = text[text.index("## In Python") : text.index("## A configuration file")]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 4
    exec("\n".join(blocks), {})
    assert (tmp_path / "runs" / "mine.html").exists() and (tmp_path / "runs" / "compared" / "report.md").exists()
