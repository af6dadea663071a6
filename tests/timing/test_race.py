"""A race goes on without what fails, and says why it failed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.inference.race import IN_PARTS, OPTIMIZED, Optimized
from leanconv.timing import runtimes
from leanconv.timing.race import AS_IS, Entry, as_it_is, race
from tests.inference.test_parts import Decides, Volume, block

SECONDS = 0.05
X = torch.randn(1, 4, 8, 8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


BOTH = {AS_IS: as_it_is, OPTIMIZED: Optimized()}


def found(*args, forms=BOTH, **settings) -> dict[tuple[str, str, str], Entry]:
    entries = race(*args, forms=forms, seconds=SECONDS, threads=1, **settings)
    assert all((entry.latency is None) != (entry.failed is None) for entry in entries)
    return {(entry.network, entry.runtime, entry.form): entry for entry in entries}


class Fails(nn.Module):
    """Fails at once, or from its third call on."""

    def __init__(self, error: Exception, calls: int = 0) -> None:
        super().__init__()
        self.block, self.error, self.left = block(), error, calls

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return self.block(x)


def test_control_flow_is_optimized_in_parts_and_said() -> None:
    rows = found({"a": Decides(), "b": block()}, X)
    assert "cannot be traced" in rows["a", "eager", OPTIMIZED].failed
    assert (
        rows["a", "eager", IN_PARTS].latency
        and rows["a", "eager", AS_IS].latency
        and rows["b", "eager", OPTIMIZED].latency
    )
    assert rows["a", "eager", IN_PARTS].forms


@pytest.mark.parametrize(
    "error",
    [ValueError("a wrong shape"), torch.OutOfMemoryError("no memory is left"), AssertionError(), KeyError("key")],
)
def test_a_network_that_fails_is_a_row(error: Exception) -> None:
    rows = found({"bad": Fails(error), "good": block()}, X)
    for form in (AS_IS, OPTIMIZED):
        assert rows["bad", "eager", form].failed
        assert rows["good", "eager", form].latency
    assert str(error) in rows["bad", "eager", AS_IS].failed
    assert any(entry.latency and entry.latency.ratio == 1 for entry in rows.values()), (
        "ratios are to the first that runs"
    )
    assert {entry.to_json()["ratio"] for entry in rows.values()} == {None}, "and said of none: the first network failed"


def test_a_network_that_fails_later_is_a_row() -> None:
    rows = found({"good": block(), "bad": Fails(RuntimeError("late"), 2)}, X, forms={AS_IS: as_it_is})
    assert rows["bad", "eager", AS_IS].failed == "late" and rows["good", "eager", AS_IS].latency


def test_nothing_that_runs_is_rows_too() -> None:
    rows = found({"bad": Fails(ValueError("never"))}, X)
    assert [entry.best for entry in rows.values()] == [False, False]


def test_a_runtime_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: nn.Module, example: Tensor, threads: int) -> runtimes.Call:
        raise RuntimeError("this compiler is broken\nfrom its second line on nobody reads")

    monkeypatch.setitem(runtimes.RUNTIMES, "compile", broken)
    rows = found({"a": block()}, X, names=("eager", "compile"))
    assert rows["a", "compile", AS_IS].failed == "this compiler is broken" and rows["a", "eager", AS_IS].latency
    with pytest.raises(SettingError, match="runtime='tpu' must be one of eager"):
        race({"a": block()}, X, names=("eager", "tpu"))


def test_tensors_of_five_dimensions_and_a_wrong_input() -> None:
    rows = found({"volume": Volume(), "other": lc.create_model("resnet8")}, X, forms={AS_IS: as_it_is})
    assert rows["volume", "eager", AS_IS].latency and "channels" in rows["other", "eager", AS_IS].failed
