"""The operator that CONTRIBUTING.md shows is one: it runs through the contract."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest

import leanconv as lc
from leanconv.core import registry
from leanconv.testing import SPECS, check_method, checks
from tests.gates.tree import ROOT


@pytest.fixture(scope="module")
def separable():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.split("## Adding an operator")[1]
    code = re.search(r"```python\n(.*?)```", section, re.S)
    assert code is not None
    module = ModuleType("shown_in_contributing")
    sys.modules[module.__name__] = module  # pickling looks its classes up there
    exec(compile(code[1], "CONTRIBUTING.md", "exec"), module.__dict__)
    yield module.Separable()
    del sys.modules[module.__name__], registry._methods["separable"]


def test_the_example_fulfils_the_contract(separable):
    assert separable.label() == "separable()"
    check_method(separable, accepts=[name for name in SPECS if SPECS[name].groups == 1 and not SPECS[name].pointwise])
    assert {check.rule.name for check in checks(separable)} > {"fit_is_nearest", "counts_agree", "saves_and_loads"}


def test_the_example_refuses_what_it_says(separable):
    assert separable.reject(SPECS["1x1"])
    assert separable.reject(SPECS["groups"])
    assert separable.reject(lc.ConvSpec(8, 8, 3)) is None
