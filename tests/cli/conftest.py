"""The command line, called in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from leanconv.cli import main

TINY = ("--epochs", "1", "--threads", "1")


class Answer(NamedTuple):
    code: Any
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """``call("inspect", "resnet8", ...)`` -> exit code, standard output, standard error."""
    monkeypatch.setattr("leanconv.experiment.compare.LATENCY_SECONDS", 0.1)

    def call(*arguments: object) -> Answer:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        return Answer(end.value.code or 0, *capsys.readouterr())

    return call


def one_line(answer: Answer, *words: str) -> bool:
    """Whether standard error ends in one line of leanconv's with these words, and holds no traceback."""
    last = answer.err.strip().splitlines()[-1]
    return last.startswith("leanconv: ") and all(word in last for word in words) and "Traceback" not in answer.err
