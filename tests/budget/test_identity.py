"""A search knows what decides its result; with another value, its folder is refused."""

from __future__ import annotations

from typing import Any

import pytest

import leanconv as lc
from leanconv.core.copying import copied
from leanconv.core.errors import SettingError
from leanconv.core.notes import set_task
from leanconv.core.task import Task
from leanconv.train import TrainConfig
from leanconv.train.once import SCRATCH, SIZE, SPLIT, THREADS, difference
from tests.budget.conftest import QUICK


@pytest.fixture
def identity(trained, data, monkeypatch):
    """The identity of a search that is not made."""
    monkeypatch.setattr("leanconv.budget.search.searched", lambda setup, *_, **__: setup.identity())

    def found(budget: str = "macs=0.6", size: int = 8, **given: Any) -> dict[str, Any]:
        model = copied(trained)
        set_task(model, Task((0.5,), (0.25,), (size, size), ("0", "1", "2")))
        return lc.lean(model, data, budget, **QUICK | given)  # type: ignore[return-value]

    return found


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"validation": 0.1}, {"validation": 0.2}, "config.validation is 0.1 there and 0.2 here"),
        (
            {"config": TrainConfig(validation=0.1)},
            {"config": TrainConfig(validation=0.5)},
            "split.validation is 0.1 there and 0.5 here",
        ),
        ({"seed": 0}, {"seed": 1}, "config.seed is 0 there and 1 here"),
        ({"size": 8}, {"size": 16}, "network_size is [8, 8] there and [16, 16] here"),
        ({"budget": "time=0.5"}, {"budget": "time=0.5", "threads": 2}, "timed_threads is 1 there and 2 here"),
        ({}, {"threads": 2}, None),
        ({"config": TrainConfig(epochs=5)}, {"config": TrainConfig(epochs=6)}, None),
        (
            {"config": TrainConfig(epochs=5), "controls": "narrower"},
            {"config": TrainConfig(epochs=6), "controls": "narrower"},
            "scratch.epochs is 5 there and 6 here",
        ),
    ],
)
def test_another_value_is_another_search(one, other, said, identity):
    there, here = identity(**one), identity(**other)
    assert difference(there, here) == said
    older = {key: value for key, value in there.items() if key not in (SPLIT, SIZE, SCRATCH, THREADS)}
    assert difference(older, there) is None


def test_a_finished_search_with_another_validation_part_is_refused(trained, data, tmp_path):
    def quality(validation: float) -> float:
        config = TrainConfig(validation=validation)
        return lc.lean(trained, data, "macs=0.6", tmp_path, config, **QUICK).rows[0]["quality"]

    assert quality(0.1) == quality(0.1)
    with pytest.raises(SettingError, match=r"holds another run: split\.validation is 0\.1 there and 0\.5 here"):
        quality(0.5)
