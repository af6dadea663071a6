"""Compare the outputs of two networks: structure, kinds and values, with NaN and infinities in equal places."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError

EXACT = 1e-6  # part of the largest value, between two ways to compute the same function in float64
# Part of the largest value that a dtype may lose by another order of operations. Low precision also rounds its weights.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
TIMES = 8.0  # allowed error, as a multiple of the network's own error in its dtype
LEAST = 1e-6  # the smallest value to compare with; otherwise nothing would equal a zero


@dataclass(frozen=True)
class Difference:
    """How much one output differs from another.

    Args:
        error: the largest difference between finite values; infinite if there is a `reason`.
        largest: the largest finite value of the output that it is compared with.
        reason: another structure, shape or kind, or another class of a container; other whole numbers or booleans; NaN or
            infinity in another place.

    >>> difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])).error
    0.5
    >>> print(difference(torch.zeros(2), torch.zeros(3)))
    shape (2,) in place of (3,)
    """

    error: float = 0.0
    largest: float = 0.0
    reason: str | None = None

    def within(self, tolerance: float) -> bool:
        """Whether the error is at most this part of the largest value."""
        return self.error <= tolerance * max(self.largest, LEAST)

    def __str__(self) -> str:
        return self.reason or f"{self.error:.3g}, at outputs of up to {self.largest:.3g}"


def leaves(value: object) -> Iterator[tuple[str, object]]:
    """Every tensor, number, string and None in a network's output, with its place in the output.

    >>> list(leaves({"boxes": [1, 2]}))
    [("['boxes'][0]", 1), ("['boxes'][1]", 2)]
    """
    inside = _inside(value)
    if inside is None:
        yield "", value
        return
    for where, item in inside:
        for more, leaf in leaves(item):
            yield where + more, leaf


def _inside(value: object) -> list[tuple[str, object]] | None:
    """The items of a container, each with its place; None for what is no container."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(f".{field.name}", getattr(value, field.name)) for field in fields(value)]
    return None


def _containers(value: object) -> list[type]:
    """The classes of all containers in `value`; an OrderedDict is a dict."""
    inside = _inside(value)
    if inside is None:
        return []
    own = dict if type(value) is OrderedDict else type(value)
    return [own, *(kind for _, item in inside for kind in _containers(item))]


def difference(found: object, expected: object) -> Difference:
    """The difference between `found` and `expected`: floating-point values numerically, all others exactly."""
    mine, theirs = list(leaves(found)), list(leaves(expected))
    if [where for where, _ in mine] != [where for where, _ in theirs]:
        return _other(f"{_shape_of(found)} in place of {_shape_of(expected)}")
    kinds = [_containers(value) for value in (found, expected)]
    if kinds[0] != kinds[1]:
        return _other(" in place of ".join(", ".join(kind.__name__ for kind in own) for own in kinds))
    worst = Difference()
    for (where, one), (_, other) in zip(mine, theirs, strict=True):
        here = _between(one, other)
        if here.reason is not None:
            return _other(f"output{where}: {here.reason}" if where else here.reason)
        worst = Difference(max(worst.error, here.error), max(worst.largest, here.largest))
    return worst


def _between(found: object, expected: object) -> Difference:
    if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
        if isinstance(found, float) and isinstance(expected, float):
            return _between(torch.tensor(found, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64))
        plain = (bool, int, str, type(None))
        same = type(found) is type(expected) and (not isinstance(found, plain) or found == expected)
        return Difference() if same else _other(f"{found!r:.80} in place of {expected!r:.80}")
    if found.shape != expected.shape:
        return _other(f"shape {tuple(found.shape)} in place of {tuple(expected.shape)}")
    if (found.is_floating_point(), found.is_complex()) != (expected.is_floating_point(), expected.is_complex()):
        return _other(f"{found.dtype} in place of {expected.dtype}")
    if found.is_complex():
        found, expected = torch.view_as_real(found), torch.view_as_real(expected)
    if not found.is_floating_point():
        wrong = int((found.to(expected.device) != expected).sum())
        return _other(f"{wrong} of {expected.numel()} values of {expected.dtype} differ") if wrong else Difference()
    found, expected = found.to(expected.device, torch.float64), expected.double()
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()) or not torch.equal(
        found[~finite].nan_to_num(0.0, 1.0, -1.0), expected[~finite].nan_to_num(0.0, 1.0, -1.0)
    ):
        return _other("NaN or infinity in other places")
    if not finite.any():
        return Difference()
    return Difference(float((found - expected)[finite].abs().max()), float(expected[finite].abs().max()))


def coarsest(tensors: Iterable[Tensor]) -> float:
    """The rounding that the least precise dtype among `tensors` allows, as a part of the largest value.

    >>> coarsest([torch.zeros(1), torch.zeros(1, dtype=torch.float16)])
    0.02
    """
    return max((ROUNDING.get(tensor.dtype, 0.0) for tensor in tensors), default=0.0)


def rounds_alike(found: object, reference: object, exact: object, allowed: float = 0.0) -> bool:
    """Whether `found` is as near to `exact` as `reference`, up to a few times the rounding; both have the same dtype.

    Values at which `reference` overflows are not compared; at all other values `found` must be finite. Whole numbers and
    booleans are not compared, because a rounding may change them.

    Args:
        found, reference: two outputs in the same dtype.
        exact: the output in float64.
        allowed: accept at least this part of the largest value; the rounding of the outputs' dtype is accepted anyway.
    """
    triples = zip(leaves(found), leaves(reference), leaves(exact), strict=True)
    return all(_rounds_alike(mine, own, true, allowed) for (_, mine), (_, own), (_, true) in triples)


def _rounds_alike(found: Any, reference: Any, exact: Any, allowed: float) -> bool:
    if not all(isinstance(value, Tensor) and value.is_floating_point() for value in (found, reference, exact)):
        return True
    allowed = max(allowed, ROUNDING.get(found.dtype, ROUNDING[torch.bfloat16]))
    found, reference, exact = found.double(), reference.double(), exact.double()
    inside = reference.isfinite() & exact.isfinite()
    if not inside.any():
        return True
    found, reference, exact = found[inside], reference[inside], exact[inside]
    own = float((reference - exact).abs().max())
    bound = max(TIMES * own, allowed * max(float(exact.abs().max()), LEAST))
    return bool(found.isfinite().all()) and float((found - exact).abs().max()) <= bound


def same_kind(found: object, expected: object) -> bool:
    """Whether both have the same structure, shapes and kinds of numbers; values are not compared.

    >>> same_kind(torch.zeros(2), torch.ones(2)), same_kind(torch.zeros(2), [torch.zeros(2)])
    (True, False)
    """

    def blank(value: object) -> list[tuple[str, object]]:
        return [(where, torch.zeros_like(leaf) if isinstance(leaf, Tensor) else leaf) for where, leaf in leaves(value)]

    return difference(blank(found), blank(expected)).reason is None


def steady(again: Difference, output: object) -> bool:
    """Whether two calls on one input give equal outputs, up to the order of sums, which some devices do not fix.

    Args:
        again: the difference between the second output and the first.
        output: the first output, whose dtypes give the rounding.
    """
    return again.within(max(EXACT, coarsest(leaf for _, leaf in leaves(output) if isinstance(leaf, Tensor))))


def refuse_unsteady(network: nn.Module, again: Difference, output: object) -> None:
    """Raise SettingError for a network whose second output on one input differs from its first.

    Nothing can be compared with such a network.

    Args:
        network: named in the error.
        again, output: as for `steady`.
    """
    if not steady(again, output):
        raise SettingError(
            f"{type(network).__name__} itself gives another output each time it is called on one input ({again}); it draws "
            "random numbers, or keeps a state, in forward; switch that off in eval mode"
        )


def _other(reason: str) -> Difference:
    return Difference(float("inf"), 0.0, reason)


def _shape_of(value: object) -> str:
    return f"{type(value).__name__} of {len(list(leaves(value)))}" if not isinstance(value, Tensor) else "a tensor"
