"""What the contract says of a wrong operator: which rule finds it, and whether its words name what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.testing import ContractError, check_method


def said(method: lc.Method, only: str) -> str:
    with pytest.raises(ContractError) as error:
        check_method(method, only)
    return str(error.value)


class Off(lc.GroupedConv2d):
    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        return super().convolve(x) * 1.01


class Loses(lc.GroupedConv2d):
    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.register_buffer("basis", torch.ones(2), persistent=False)


def built(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> lc.Method:
    """A method whose class pickling finds, with operators of this kind."""
    made = staticmethod(lambda specs: [kind(**spec.kwargs(), own_groups=2) for spec in specs])
    monkeypatch.setattr(lc.Grouped, "build", made)
    return lc.Grouped(groups=2)


def test_a_difference_is_named_with_its_size_and_a_rule_stands_once(monkeypatch: pytest.MonkeyPatch):
    text = said(built(Off, monkeypatch), "equals*")
    assert "the output is not that of the dense weight: they differ by up to 0.0" in text and "1e-10 is allowed" in text
    assert text.count("equals_the_dense_convolution_it_names") == 1 and len(text.splitlines()) == 2
    assert "more: on '3x3 square', 'bias', " in text


def test_a_buffer_that_is_not_stored_is_named_once_with_the_way_out(monkeypatch: pytest.MonkeyPatch):
    text = said(built(Loses, monkeypatch), "copies*")
    assert (
        "the buffers ['basis'] are not in the state dict" in text
        and "persistent=True, or compute them in convolve" in text
    )


def test_a_setting_without_the_decorator():
    class Wrong(lc.Grouped):
        more: int = 3

    text = said(Wrong(), "its_settings*")
    assert "['more'] are no settings: write @dataclass(frozen=True) above the class Wrong" in text


def test_settings_that_do_not_come_back():
    @dataclass(frozen=True)
    class Wrong(lc.Grouped):
        def settings(self) -> dict[str, Any]:
            return {"groups": 4}

    assert "wrong(groups=4) is made from the settings of wrong(groups=2)" in said(Wrong(), "its_settings*")


def test_a_group_of_layers_that_cannot_share():
    @dataclass(frozen=True)
    class Wrong(lc.DepthShared):
        def group(self, sites: Sequence[lc.Site]) -> tuple[list[lc.Group], list[lc.Skipped]]:
            accepted, kept = self.accept(sites)
            return [lc.Group(self, tuple(accepted))], kept

    assert "does group() put layers together that cannot share? a bank of shape" in said(Wrong(), "shares_only*")
