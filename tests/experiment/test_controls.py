"""Controls stand in the place of a method: in a fit, in a comparison, and when a finished run is read back."""

from __future__ import annotations

from pathlib import Path

import pytest

import leanconv as lc
from leanconv.core.errors import SettingError

from .conftest import QUICK


def test_controls_beside_a_method(tmp_path: Path) -> None:
    methods = "dense,tied_block(blocks=2),narrower(macs=0.5),pruned(macs=0.5)"
    first = lc.compare("resnet8", methods=methods, out=tmp_path, latency=False, precision="fp32", **QUICK)
    assert [row["method"] for row in first.rows] == methods.split(",")
    shares = [row["macs_ratio"] for row in first.rows]
    assert 0.3 < shares[2] <= 0.5 and shares[3] == shares[2]
    again = lc.compare("resnet8", methods=methods, out=tmp_path, latency=False, precision="fp32", **QUICK)
    assert [row["test_top1_pct"] for row in again.rows] == [row["test_top1_pct"] for row in first.rows]
    narrow = again.networks["narrower(macs=0.5)"]
    assert lc.evaluate(narrow, "digits").top1_pct == again.rows[2]["test_top1_pct"]


def test_a_shallower_network() -> None:
    result = lc.fit("resnet20", "digits", method="shallower(macs=0.5)", **QUICK)
    assert 0.3 < result.counts["macs"] / lc.count(lc.create_model("resnet20", in_chans=1), (1, 8, 8)).macs <= 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("narrower(mac=0.5)", "narrower: narrower has no setting 'mac'|narrower has no setting 'mac'"),
        ("narrow", "unknown method 'narrow' .did you mean 'narrower'"),
        ("shallower(macs=0.1)", "cannot be met"),
    ],
)
def test_a_bad_control_is_one_line(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        lc.fit("resnet8", "digits", method=text, **QUICK)
    assert "\n" not in str(caught.value)
