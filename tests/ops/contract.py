"""The methods of this repository, each with settings that the contract checks and the convolutions it must accept."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import leanconv as lc
from leanconv.testing import SPECS, Check, checks, image, lean_network, network, unsettle_

__all__ = ["ACCEPTED", "CASES", "OWN", "SPECS", "image", "lean_network", "network", "on_checks", "unsettle_"]

OWN = tuple(method for method in lc.METHODS if method.__module__.startswith("leanconv."))


@dataclass(frozen=True)
class Case:
    """One setting of a method, with the specs it must accept; all the others of `SPECS` it must reject."""

    method: lc.Method
    accepts: frozenset[str]


def case(method: lc.Method, *rejects: str) -> Case:
    unknown = set(rejects) - set(SPECS)
    assert not unknown, unknown
    accepts = frozenset(SPECS) - set(rejects)
    assert len(accepts) >= len(SPECS) / 2, f"{method.label()} rejects more than half of the specs"
    return Case(method, accepts)


def narrow_case(method: lc.Method, *accepts: str) -> Case:
    """A method that replaces only a few kinds of convolutions, by its definition."""
    assert set(accepts) <= set(SPECS)
    return Case(method, frozenset(accepts))


_SPLIT_REJECTS = ("1x1", "1x1 stride 2", "stride 3", "no padding", "groups", "depthwise")
_BASIS_REJECTS = ("1x1", "1x1 stride 2", "groups", "depthwise")
_STRIDED = ("stride 2", "stride (1, 2)", "stride 3", "stride 2 dilation 2", "replicate, stride 2", "1x1 stride 2")
_KEEPS = ("3x3 square", "3x1", "same", "same, even kernel", "same, circular", "reflect")  # channels and size
CASES: list[Case] = [
    case(lc.TiedBlock(blocks=2), "depthwise"),
    case(lc.TiedBlock(blocks=4), "depthwise", "uneven"),
    case(lc.SharedBasis(shared=4, unique=2), *_BASIS_REJECTS),
    case(lc.SharedBasis(shared=3, unique=0, bases=2, norm=False), *_BASIS_REJECTS),
    case(lc.SharedBasis(shared=0, unique=3, penalty_weight=0.0), *_BASIS_REJECTS),
    case(lc.DepthShared()),
    case(lc.DepthShared(scope="stage", blend=True, penalty_weight=1.0), "groups", "depthwise"),
    case(lc.DepthShared(adapter_rank=2), "depthwise"),
    case(lc.LowRank(), "depthwise"),
    case(lc.LowRank(rank=2, factors="spatial"), *_STRIDED, "1x1", "3x1", "depthwise"),
    case(lc.LowRank(ratio=0.7, factors="tucker", align=1), *_STRIDED, "1x1", "depthwise"),
    narrow_case(lc.PartialConv(), *_KEEPS),
    narrow_case(lc.PartialConv(ratio=0.6), *_KEEPS),
    case(lc.Split(), *_SPLIT_REJECTS),
    case(lc.Split(ratio=0.25, fusion=False), *_SPLIT_REJECTS),
    case(lc.Split(fusion="static"), *_SPLIT_REJECTS),
    case(lc.Split(ratio=0.5, representative="chain"), *_SPLIT_REJECTS),
    case(lc.Split(ratio=0.3, representative="full"), *_SPLIT_REJECTS),
    case(lc.Split(ratio=0.5, redundant=False), *_SPLIT_REJECTS),
    case(lc.Split(ratio=1.0, groups=1), *_SPLIT_REJECTS),
    case(lc.Grouped(groups=2), "depthwise"),
    case(lc.Ghost(), "groups", "depthwise"),
    case(lc.Ghost(expansion=3, kernel_size=5, norm=False, activation=False), "groups", "depthwise"),
    case(lc.Het(part=2), "1x1", "1x1 stride 2", "depthwise"),
    case(lc.Het(part=4), "1x1", "1x1 stride 2", "depthwise", "uneven"),
    case(lc.Lego(splits=2, ratio=0.4), "groups", "depthwise"),
    case(lc.Lego(splits=2, ratio=0.4, coefficients="lego", rounding="down"), "groups", "depthwise"),
    case(lc.SoftShared(templates=2)),
    case(lc.FilterSummary(ratio=0.3)),
]
# An operator that is not named above is one file all the same: it is checked with its defaults, on what it accepts itself
_NAMED = {type(case.method) for case in CASES}
CASES += [
    Case(kind(), frozenset(n for n, s in SPECS.items() if kind().reject(s) is None))
    for kind in OWN
    if kind not in _NAMED
]
ACCEPTED = [(case.method, name) for case in CASES for name in SPECS if name in case.accepts]
FIRST = {type(case.method): case.method for case in reversed(CASES)}
CHECKS: list[Check] = [
    check for case in CASES for check in checks(case.method, thorough=FIRST[type(case.method)] == case.method)
]


def on_checks(*files: str) -> pytest.MarkDecorator:
    """Every check of these files of rules."""
    return pytest.mark.parametrize("check", [check for check in CHECKS if check.rule.file in files], ids=str)
