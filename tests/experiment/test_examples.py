"""The examples of docstrings run."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

MODULES = ("core.config", "experiment.fit", "experiment.compare", "conversion.useful")


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name: str) -> None:
    found = doctest.testmod(import_module(f"leanconv.{name}"), optionflags=doctest.ELLIPSIS)
    assert found.attempted and not found.failed
