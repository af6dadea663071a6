"""The contract under autograd and its transforms."""

from __future__ import annotations

from leanconv.testing import Check
from tests.ops.contract import on_checks


@on_checks("derivatives")
def test_derivatives(check: Check):
    check()
