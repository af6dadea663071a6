"""Each network that has a name: it builds, runs forward and backward, and shares what it says it shares."""

from __future__ import annotations

import pytest
import torch

import leanconv as lc
from leanconv.core.sharing import borrowed, check_owners
from leanconv.models import ModelEntry, list_models
from leanconv.models.known import counts_of, known_counts

SHARING = ("basis_", "shard_", "sha_", "soft_")  # families in which one weight serves several layers
OWN = ("_e", "_e_tiny")  # endings of ShardNet's baselines, in which none does
ENTRIES = list_models()


def side(entry: ModelEntry) -> int:
    """Pixels at which every stage still has some."""
    return {224: 64, 56: 16}.get(entry.input_size[1], entry.input_size[1])


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_parameter_gets_a_gradient(entry):
    torch.manual_seed(0)
    model = lc.create_model(entry.name).train()
    y = model(torch.randn(2, 3, side(entry), side(entry)))
    y.square().mean().backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not [name for name, parameter in trained.items() if parameter.grad is None]
    assert all(torch.isfinite(parameter.grad).all() for parameter in trained.values())
    lc.check(model)
    users = [(name, module) for name, module in model.named_modules() if any(True for _ in borrowed(module))]
    check_owners(model, users)
    shares = entry.name.startswith(SHARING) and not entry.name.endswith(OWN)
    assert bool(users) == shares


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_known_counts_are_true(entry):
    found = counts_of(entry.name)
    assert known_counts()[entry.name] == found, "run `python -m tests.gates.update`"
    assert found["input_size"] == list(entry.input_size)


def test_names_are_apart_and_say_where_they_come_from():
    names = [entry.name for entry in ENTRIES]
    assert len({*names}) == len(names)
    assert all(entry.source for entry in ENTRIES)
    assert {*known_counts()} == {*names}
