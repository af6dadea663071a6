"""A function as text: equal for equal functions, in each process, and different for others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest

from leanconv.core.functions import function_text


def scaled(value: float, by: float = 1.0) -> float:
    return value * by


def returns(value: float) -> Callable[[], float]:
    return lambda: value


def halved() -> Callable[[int], int]:
    def half(n: int) -> int:
        return half(n // 2) if n else 0

    return half


class Counted:
    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.calls: list[int] = []

    def __call__(self) -> str:
        return self.unit

    def method(self) -> str:
        return self.unit * 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x.a, lambda x: x.b),
        (lambda x: x in {"a", "b"}, lambda x: x in {"a", "c"}),
        (lambda: lambda: 1, lambda: lambda: 2),
        (returns(1.0), returns(2.0)),
        (partial(scaled, by=2.0), partial(scaled, by=3.0)),
        (Counted("m"), Counted("s")),
        (Counted("m").method, Counted("m")),
        (halved(), halved),
    ],
)
def test_other_functions_have_other_texts(one: object, other: object) -> None:
    assert function_text(one) == function_text(one) != function_text(other)


def test_what_a_function_counts_and_keeps_changes_nothing() -> None:
    counted = Counted("m")
    before = function_text(counted)
    counted.calls.append(1)
    assert function_text(counted) == before == function_text(Counted("m"))


def test_the_text_is_the_same_in_each_process() -> None:
    code = 'from leanconv.core.functions import function_text\nprint(function_text(lambda x: x in {"a", "b", "c"}))'
    every = [{**os.environ, "PYTHONHASHSEED": seed} for seed in "12"]
    found = {subprocess.check_output([sys.executable, "-c", code], env=env, text=True) for env in every}
    assert len(found) == 1 and next(iter(found)).startswith("__main__.<lambda> ")
