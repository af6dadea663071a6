"""What the sentences claim."""

from __future__ import annotations

from typing import Any

import pytest

from leanconv.report.verdict import sentences, verdict

from .sample import DENSE, ROWS, latency, row


def test_better_and_worse() -> None:
    text = verdict(ROWS[1], DENSE)
    assert "better in parameters (0.39 of dense) and MACs (0.37 of dense)" in text
    assert "worse in measured latency (1.30 of dense, quartiles 1.20-1.40)" in text
    assert (
        "test accuracy (-2.10 points, 95 % interval -3.37 to -0.83 over 2 seeds)"
        in text.partition(";")[2].partition(";")[0]
    )


def test_more_is_worse() -> None:
    assert "worse in parameters (1.50 of dense)" in verdict(row("x", (91.0, 91.4), params_ratio=1.5), DENSE)


def test_no_change_is_said() -> None:
    text = verdict(row("x", (91.1, 91.2)), DENSE)
    assert text.startswith("x: neither better nor worse")
    assert "the MACs do not change" in text
    assert "test accuracy is not distinguishable (-0.05 points, 95 % interval -1.96 to +1.86 over 2 seeds)" in text


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
        (0.85, 0.95, 0.4, "is not reliable: other programs used 40% of the CPUs during the measurement"),
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


def better(text: str) -> bool:
    return "better in test accuracy" in text


def test_one_seed_is_not_distinguishable() -> None:
    one = row("dense", (91.0,))
    for base in (one, DENSE):
        text = verdict(row("x", (80.0,)), base)
        assert "test accuracy (-1" in text and "is not distinguishable: too few seeds" in text
        assert text.startswith("x: neither better nor worse")


def test_a_difference_within_its_spread_is_not_distinguishable() -> None:
    """Every seed above every one of dense, and still: two pairs say little."""
    text = verdict(row("x", (92.3, 92.5)), DENSE)
    assert "test accuracy is not distinguishable (+1.20 points, 95 % interval -0.07 to +2.47 over 2 seeds)" in text
    assert not better(text)


def test_seeds_are_paired() -> None:
    """The seeds differ much from each other and the methods little: pairs see it, two means would not."""
    base = row("dense", (80.0, 85.0, 90.0))
    assert "(+0.50 points, 95 % interval +0.25 to +0.75 over 3 seeds)" in verdict(row("x", (80.5, 85.4, 90.6)), base)
    assert better(verdict(row("x", (80.5, 85.4, 90.6)), base))
    turned = row("x", (80.5, 85.4, 90.6), test_top1_pct_by_seed={"0": 90.6, "1": 80.5, "2": 85.4})
    assert not better(verdict(turned, base))


def test_only_seeds_of_both_count() -> None:
    more = row("x", (91.4, 91.9, 99.0))
    assert "(+0.45 points, 95 % interval -0.19 to +1.09 over 2 seeds)" in verdict(more, DENSE)


def test_equal_differences_of_a_few_counts_claim_nothing() -> None:
    for n, words in ((2, "too few seeds"), (5, "too few seeds"), (6, "better in test accuracy (+1.00 points")):
        base = row("dense", tuple(90.0 + 0.1 * seed for seed in range(n)))
        values = tuple(value + 1.0 for value in base["test_top1_pct_by_seed"].values())
        assert words in verdict(row("x", values), base)


def test_rows_without_values_by_seed_are_compared_by_their_means() -> None:
    def old(method: str, mean: float, deviation: float | None, n: int) -> dict[str, Any]:
        found = row(method, (mean,) * n) | {"test_top1_pct_std": deviation, "n": n}
        del found["test_top1_pct_by_seed"]
        return found

    base = old("dense", 91.0, 0.2, 5)
    text = verdict(old("x", 92.0, 0.2, 5), base)  # t(0.975; 8) = 2.306, times sqrt(2 * 0.04 / 5)
    assert better(text) and "95 % interval +0.71 to +1.29 from 5 seeds against 5 seeds of dense" in text
    assert "not distinguishable" in verdict(old("x", 91.2, 0.2, 5), base)
    assert "too few seeds" in verdict(old("x", 99.0, None, 1), base)
    assert "too few seeds" in verdict(old("x", 99.0, 0.0, 2), old("dense", 91.0, 0.0, 2))


def test_other_seeds_are_not_paired() -> None:
    others = row(
        "x", (93.0, 93.1, 93.2), test_top1_pct_by_seed={"7": 93.0, "8": 93.1, "9": 93.2}, test_top1_pct_std=0.1
    )
    base = row("dense", (91.0, 91.1, 91.2), test_top1_pct_std=0.1)
    assert "3 seeds against 3 seeds of dense" in verdict(others, base) and better(verdict(others, base))


def test_a_failed_run_has_no_accuracy() -> None:
    assert "there is no accuracy, because training failed (seed 0" in verdict(ROWS[2], DENSE)


def test_nothing_to_compare_with() -> None:
    assert sentences(ROWS[1:]) == []
    assert len(sentences(ROWS)) == 2
