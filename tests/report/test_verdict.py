"""What the sentences claim."""

from __future__ import annotations

import pytest

from leanconv.report.verdict import sentences, verdict

from .sample import DENSE, ROWS, latency, row


def test_better_and_worse() -> None:
    text = verdict(ROWS[1], DENSE)
    assert "better in parameters (0.39 of dense) and MACs (0.37 of dense)" in text
    assert "worse in measured latency (1.30 of dense, quartiles 1.20-1.40)" in text
    assert "test accuracy (-2.10 points, every seed below every dense one)" in text


def test_more_is_worse() -> None:
    assert "worse in parameters (1.50 of dense)" in verdict(row("x", (91.0, 91.4), params_ratio=1.5), DENSE)


def test_no_change_is_said() -> None:
    text = verdict(row("x", (91.1, 91.2)), DENSE)
    assert text.startswith("x: neither better nor worse")
    assert "the MACs are as many as before" in text
    assert "test accuracy (-0.05 points) is within the spread over seeds" in text


@pytest.mark.parametrize(
    ("ratios", "words"),
    [
        ((0.8, 0.7, 0.9), "better in measured latency"),
        ((1.2, 1.1, 1.3), "worse in measured latency"),
        ((0.9, 0.7, 1.1), "measured latency is not clearly different (0.90 of dense"),
        ((1.1, 0.9, 1.3), "measured latency is not clearly different"),
    ],
)
def test_latency_needs_both_quartiles_on_one_side(ratios: tuple[float, float, float], words: str) -> None:
    assert words in verdict(row("x", (91.0, 91.4), **latency(*ratios)), DENSE)


@pytest.mark.parametrize(
    ("low", "high", "busy", "words"),
    [
        (0.85, 0.95, 0.0, "better in measured latency (0.90 of dense, 95 % interval 0.85-0.95)"),
        (0.85, 0.95, None, "better in measured latency (0.90 of dense, 95 % interval 0.85-0.95)"),
        (1.05, 1.25, 0.02, "worse in measured latency (0.90 of dense, 95 % interval 1.05-1.25)"),
        (0.85, 1.02, 0.0, "measured latency is not clearly different (0.90 of dense, 95 % interval 0.85-1.02)"),
        (0.85, 0.999, 0.0, "measured latency is not clearly different"),
        (0.85, 0.95, 0.4, "is not to be trusted: other programs used 40% of the CPUs meanwhile"),
        (None, None, 0.0, "measured latency (0.90 of dense) comes from 4 rounds, too few to tell"),
    ],
)
def test_latency_by_its_interval(low: float | None, high: float | None, busy: float | None, words: str) -> None:
    """Wide quartiles do not hide a median that is known well, nor does a busy machine pass for a result."""
    values = {"latency_ratio_low": low, "latency_ratio_high": high, "latency_busy": busy, "latency_rounds": 4}
    text = verdict(row("x", (91.0, 91.4), **latency(0.9, 0.5, 1.5), **values), DENSE)
    assert words in text
    if busy == 0.4:
        assert "better in measured latency" not in text


def test_accuracy_needs_two_seeds_each() -> None:
    assert "too few to know its spread" in verdict(row("x", (80.0,)), DENSE)
    assert "1 seed against 2 seeds of dense" in verdict(row("x", (80.0,)), DENSE)
    assert "better in test accuracy (+1.20 points" in verdict(row("x", (92.3, 92.5)), DENSE)


def test_a_failed_run_has_no_accuracy() -> None:
    assert "there is no accuracy, since training failed (seed 0" in verdict(ROWS[2], DENSE)


def test_nothing_to_compare_with() -> None:
    assert sentences(ROWS[1:]) == []
    assert len(sentences(ROWS)) == 2
