"""JSON that nests deeper than Python goes: whoever reads it says so, or takes it for none."""

from __future__ import annotations

from pathlib import Path

import pytest

from leanconv.analyse.gradients import read_gradients
from leanconv.analyse.tradeoff import read_tradeoff
from leanconv.core.errors import FileError
from leanconv.data.from_run import held_out
from leanconv.report.results import markdown_of
from leanconv.timing.store import TimeStore

NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("name", "read"),
    [("summary.json", read_tradeoff), ("summary.json", lambda folder: markdown_of(folder / "summary.json")),
     ("gradients.jsonl", read_gradients)],
    ids=["tradeoff", "results", "gradients"],
)  # fmt: skip
def test_it_is_one_line(tmp_path: Path, name: str, read) -> None:
    (tmp_path / name).write_text(NESTED)
    with pytest.raises(FileError) as caught:
        read(tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [NESTED, '{"version": 1, "times_ms": [1]}', "[]", "\xff"])
def test_a_cache_that_cannot_be_read_is_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "forms.json").write_text(content, encoding="latin-1")
    assert TimeStore(tmp_path / "forms.json").times == {}


@pytest.mark.parametrize("content", [NESTED, "{}", '{"data": 3}', '{"data": {"held_out": {"fraction": "x"}}}'])
def test_a_run_that_does_not_say_held_nothing_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    assert held_out(str(tmp_path)) is None
