"""Time against the number of groups: the layers of TBC's Fig. 3, with equal MACs."""

from __future__ import annotations

import pytest

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.inference import group_times as module
from leanconv.inference.group_times import group_times
from leanconv.timing.latency import Latency


def test_macs_stay_equal_and_each_form_is_timed(monkeypatch):
    """At B groups there are B F filters: k k I (B F) H W / B MACs for grouped and tied convolutions alike."""
    seen = {}

    def measured(models, input_size, **settings):
        seen.update(models)
        return [Latency(name, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3) for name in models]

    monkeypatch.setattr(module, "measure_latency", measured)
    found = group_times((1, 2, 4), [lc.TiedBlock, lc.Grouped], input_size=(8, 5, 5), filters=2)
    assert {row["macs"] for row in found.rows} == {9 * 8 * 2 * 25}
    assert [(row["groups"], row["filters"]) for row in found.rows if row["form"] in ("ordinary", "grouped")] == [
        (1, 2), (2, 4), (4, 8),
    ]  # fmt: skip
    for row in found.rows:
        layer = seen[f"{row['form']} {row['groups']}"]
        out = layer(module.torch.zeros(1, 8, 5, 5))
        assert out.shape == (1, row["filters"], 5, 5)
    forms = {row["form"] for row in found.rows}
    assert seen["grouped 4"].groups == 4 and {"tied_block, batch", "ordinary", "grouped"} < forms
    assert any(form.startswith("grouped, ") for form in forms)
    assert "to one group" in str(found) and found.page().html() and found.to_json()["n"] == 3


def test_groups_must_divide_the_channels():
    with pytest.raises(SettingError, match="groups=3 must divide the 8 channels"):
        group_times((3,), input_size=(8, 5, 5))


def test_a_method_must_divide_the_macs():
    with pytest.raises(
        SettingError, match=r"shared_basis\(shared=2\) has .* MACs where 2 groups have .*; give a method whose"
    ):
        group_times((2,), [lc.SharedBasis], input_size=(8, 5, 5), filters=4)
    with pytest.raises(SettingError, match="ratio=2 must be a number above 0 and at most 1"):
        group_times((2,), [lc.LowRank], input_size=(8, 5, 5), filters=4)
