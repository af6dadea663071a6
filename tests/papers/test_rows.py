"""What a verdict means, and that changing one setting flips it."""

from __future__ import annotations

import dataclasses

import pytest

from leanconv.papers.conventions import macs, params
from leanconv.papers.rows import Cell, CountRule, PrintedCount, network

R20 = network("resnet20")


def row(printed: str, figure: CountRule | None, unit: str = "M") -> PrintedCount:
    return PrintedCount("spconv", "1", "ResNet-20", "params", printed, unit, figure, "option B", "derived")


@pytest.mark.parametrize(
    ("printed", "unit", "verdict"),
    [
        ("0.27", "M", "equal"),
        ("0.272", "M", "equal"),
        ("272.5", "K", "equal"),
        ("272.4", "K", "truncated"),
        ("272.6", "K", "close"),
        ("0.271", "M", "close"),
        ("0.26", "M", "close"),
        ("0.25", "M", "differs"),
        ("0.3", "M", "equal"),
        ("0.2", "M", "truncated"),
        ("0.4", "M", "differs"),
    ],
)
def test_verdicts_of_272_474(printed, unit, verdict):
    assert row(printed, CountRule(params, R20), unit).verdict() == verdict


def test_one_setting_flips_the_verdict():
    right = row("0.27", CountRule(params, R20))
    assert right.verdict() == "equal"
    for wrong in (network("resnet20", shortcut="A", width=17), network("resnet20", width=15), network("resnet32")):
        assert dataclasses.replace(right, figure=CountRule(params, wrong)).verdict() not in ("equal", "truncated")


def test_figures_that_compare():
    small = network("resnet8")
    a, b = 272474, 78042
    assert CountRule(params, small).value() == b
    assert CountRule(params, small, R20, "share_pct").value() == pytest.approx(100 * b / a)
    assert CountRule(params, small, R20, "saved_pct").value() == pytest.approx(100 - 100 * b / a)
    assert CountRule(params, small, R20, "factor").value() == pytest.approx(a / b)
    assert CountRule(params, R20, small, "difference").value() == a - b
    assert CountRule(params, R20, small, "more_pct").value() == pytest.approx(100 * a / b - 100)
    assert CountRule(params, small, Cell("21.30M"), "factor").value() == pytest.approx(21.3e6 / b)
    assert CountRule(params, small, R20, "factor", rounded=("0.3M", "78K")).value() == pytest.approx(300 / 78)
    assert CountRule(params, small, R20, "factor", rounded=("272K", "78.0K")).value() == pytest.approx(272 / 78)


def test_compute_stands_beside_a_comparison():
    small = network("resnet8")
    assert CountRule(params, small).macs_ratio() is None
    ratio = CountRule(macs, small, R20, "factor").value() ** -1
    assert CountRule(params, small, R20, "factor").macs_ratio() == pytest.approx(ratio)
    assert CountRule(params, small, Cell("21.30M"), "factor").macs_ratio() is None
    assert CountRule(params, small, Cell("21.30M"), "factor", base=R20).macs_ratio() == pytest.approx(ratio)


def test_a_quoted_row_has_no_figure_of_ours():
    quoted = row("0.27", None)
    assert (quoted.ours(), quoted.verdict(), quoted.deviation_pct()) == (None, "quoted", None)
    assert quoted.to_json()["network"] is None


@pytest.mark.parametrize("text", ["", "M", "1.2.3M", "12 M", "-3K"])
def test_a_cell_is_a_printed_figure(text):
    with pytest.raises(ValueError, match="no printed figure"):
        _ = Cell(text).value
