"""The operator that CONTRIBUTING.md shows is one: it runs through the contract."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest

import leanconv as lc
from tests.gates.tree import ROOT
from tests.ops import test_contract as contract
from tests.ops.contract import SPECS


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
    del sys.modules[module.__name__]


@pytest.mark.parametrize("name", ["3x3", "bias", "stride (1, 2)", "dilation 2", "same, circular", "uneven"])
def test_the_example_fulfils_the_contract(separable, name, tmp_path):
    assert separable.label() == "separable()"
    contract.test_output_has_the_shape_of_conv2d(separable, name)
    contract.test_counts_agree(separable, name)
    contract.test_equals_the_dense_convolution_it_names(separable, name)
    contract.test_gradients(separable, name)
    contract.test_fit_is_idempotent_and_beats_small_changes(separable, name)
    contract.test_copies_pickles_and_moves(separable, name)
    contract.test_traces_compiles_and_exports(separable, name)


def test_the_example_refuses_what_it_says(separable):
    assert separable.reject(SPECS["1x1"])
    assert separable.reject(SPECS["groups"])
    assert separable.reject(lc.ConvSpec(8, 8, 3)) is None
