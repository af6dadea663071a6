"""Groups that do not fill whole vectors: filled up with zeros they compute the same, and a file says which form it has."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.affine import Affine
from leanconv.deploy import export as exporting
from leanconv.deploy.formats import FORMATS, FORMS
from leanconv.inference.forms import forms_of
from leanconv.inference.merge import Branches


@pytest.mark.parametrize(
    ("op", "name"),
    [
        (lc.TiedBlockConv2d(36, 72, 3, padding=1, blocks=2), "padded(32)"),
        (lc.TiedBlockConv2d(16, 16, 3, stride=2, padding=1, blocks=4, bias=False), "padded(16)"),
        (lc.TiedBlockConv2d(24, 24, 1, groups=2, blocks=2), "padded(16)"),
        (lc.GroupedConv2d(40, 20, 3, padding=1, padding_mode="circular", own_groups=2), "padded(32)"),
    ],
    ids=["18 and 36", "4", "with groups", "20 and 10"],
)
@pytest.mark.parametrize("normed", [False, True])
def test_padded_groups_compute_the_same(op: Any, name: str, normed: bool):
    op = op.double().eval()
    affine = Affine(torch.randn(op.out_channels).double(), torch.randn(op.out_channels).double()) if normed else None
    x = torch.randn(2, op.in_channels, 7, 5).double()
    expected = op(x) if affine is None else op(x) * affine.scale.view(-1, 1, 1) + affine.shift.view(-1, 1, 1)
    form = forms_of(op, affine)[name]()
    assert torch.allclose(form(x), expected, atol=1e-12)
    (conv,) = [module for module in form.modules() if isinstance(module, nn.Conv2d)]
    assert conv.in_channels // conv.groups % 16 == 0 and conv.out_channels // conv.groups % 16 == 0


def test_whole_vectors_and_depthwise_convolutions_are_not_padded():
    for op in (lc.TiedBlockConv2d(32, 64, 3, blocks=2), lc.GroupedConv2d(24, 24, 3, own_groups=24)):
        assert not any(name.startswith("padded") for name in forms_of(op.eval()))


def test_merged_branches_are_padded():
    branches = Branches([nn.Conv2d(18, 18, 3, padding=1) for _ in range(4)], [[]] * 4).double().eval()
    x = torch.randn(1, 72, 6, 6).double()
    form = branches.forms()["merged(4), padded"]()
    assert torch.allclose(form(x), branches(x), atol=1e-12)
    assert "merged(4), padded" not in Branches([nn.Conv2d(16, 16, 1) for _ in range(4)], [[]] * 4).forms()


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, FORMATS["openvino"].packages)), reason="openvino is not installed"
)
def test_a_file_says_its_forms_and_the_runtime_measures_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from leanconv.timing.runtimes import openvino_core

    asked: list[tuple[bool, str]] = []

    def optimize(*arguments: Any, measured: bool, runtime: str, **settings: Any) -> nn.Module:
        asked.append((measured, runtime))
        return lc.optimize(*arguments, measured=False, **settings)

    monkeypatch.setattr(exporting, "optimize", optimize)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), lc.TiedBlockConv2d(8, 8, 3, padding=1, blocks=2)).eval()
    made = lc.export(net, tmp_path / "net.xml", form="measured", example=torch.randn(2, 3, 8, 8))
    assert asked == [(True, "openvino")] and made.form == "measured"
    text = openvino_core().read_model(made.path).get_rt_info(["leanconv", FORMS]).astype(str)
    assert json.loads(text) == {"1": "grouped"}
