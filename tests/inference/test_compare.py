"""What counts as the same output."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, tensor

from leanconv.inference.compare import difference, rounds_alike, same_kind

NAN, INF = float("nan"), float("inf")


class Named(dict):
    pass


@dataclass
class Answer:
    logits: Tensor
    name: str = "a"


@pytest.mark.parametrize(
    "value",
    [
        tensor([1.0, NAN, INF, -INF]), tensor([NAN, NAN]), tensor([True, False]), tensor([3, 1]), tensor([]), tensor([1 + 2j]),
        (tensor([1.0]), None, "text", 3, NAN), {"a": [tensor([1.0])]}, Answer(tensor([INF])), None, [],
    ],
    ids=str,
)  # fmt: skip
def test_the_same_is_the_same(value: object) -> None:
    found = difference(value, value)
    assert found.reason is None and found.error == 0 and found.within(0) and same_kind(value, value)


@pytest.mark.parametrize(
    ("found", "expected", "reason"),
    [
        (tensor([1.0, NAN]), tensor([NAN, 1.0]), "NaN or infinity in other places"),
        (tensor([INF]), tensor([-INF]), "NaN or infinity in other places"),
        (tensor([INF]), tensor([NAN]), "NaN or infinity in other places"),
        (tensor([1.0]), tensor([NAN]), "NaN or infinity in other places"),
        (tensor([True, False]), tensor([True, True]), r"1 of 2 values of torch.bool differ"),
        (tensor([3, 1]), tensor([3, 2]), r"1 of 2 values of torch.int64 differ"),
        (tensor([1.0]), tensor([1]), r"torch.float32 in place of torch.int64"),
        (tensor([1.0]), tensor([[1.0]]), r"shape \(1,\) in place of \(1, 1\)"),
        ((tensor([1.0]),), [tensor([1.0]), None], "tuple of 1 in place of list of 2"),
        ({"a": tensor([1.0])}, {"b": tensor([1.0])}, "in place of"),
        ({"a": [tensor([1.0])]}, Named(a=[tensor([1.0])]), "dict, list in place of Named, list"),
        ([[]], [], "list, list in place of list"),
        ((tensor([1.0]), "a"), (tensor([1.0]), "b"), r"output\[1\]: 'a' in place of 'b'"),
        (Answer(tensor([1]), "a"), Answer(tensor([2]), "a"), r"output.logits: 1 of 1"),
        ((tensor([1.0]), None), (tensor([1.0]), tensor([1.0])), "None in place of"),
    ],
)
def test_what_differs_in_kind_is_said(found: object, expected: object, reason: str) -> None:
    far = difference(found, expected)
    assert far.reason is not None and not far.within(1e30)
    assert re.search(reason, far.reason)


def test_floating_values_differ_by_so_much() -> None:
    far = difference((tensor([1.0, NAN, 100.0]), tensor([0.5])), (tensor([1.0, NAN, 101.0]), tensor([0.0])))
    assert (far.error, far.largest, far.reason) == (1.0, 101.0, None)
    assert far.within(0.01) and not far.within(0.009)
    assert not difference(tensor([2e-4]), tensor([1e-4])).within(1e-3), "small values are compared as closely"


def test_rounding_is_held_against_the_networks_own() -> None:
    exact = torch.linspace(-3, 3, 101, dtype=torch.float64)
    own = exact.half()
    assert rounds_alike((exact + 1e-3).half(), own, exact)
    assert not rounds_alike((exact + 0.2).half(), own, exact)
    assert rounds_alike((exact + 0.2).half(), (exact + 0.1).half(), exact), "twice its own error"
    broken = own.clone()
    broken[3] = INF
    assert not rounds_alike(broken, own, exact) and not rounds_alike(broken * NAN, own, exact)
    assert rounds_alike(own, broken, exact), "where it overflows itself, anything goes"
