"""Intervals from pairs: against tables, and against what they promise."""

from __future__ import annotations

import math
import random

import pytest

from leanconv.core.errors import SettingError
from leanconv.core.paired import median_interval, paired_interval, student_t

# Two-sided quantiles of Student's t: Abramowitz & Stegun, table 26.10
TABLE = {
    (0.95, 1): 12.706, (0.95, 2): 4.303, (0.95, 3): 3.182, (0.95, 4): 2.776, (0.95, 5): 2.571, (0.95, 9): 2.262,
    (0.95, 10): 2.228, (0.95, 30): 2.042, (0.95, 120): 1.980, (0.99, 1): 63.657, (0.99, 7): 3.499, (0.90, 6): 1.943,
}  # fmt: skip


@pytest.mark.parametrize(("at", "value"), TABLE.items())
def test_students_t_equals_the_table(at, value):
    assert student_t(*at) == pytest.approx(value, abs=6e-4)


def test_paired_interval_is_the_textbook_one():
    # mean 2, s = 1, n = 3: half-width 4.303 / sqrt(3)
    low, high = paired_interval([1.0, 2.0, 3.0])
    assert (low + high) / 2 == pytest.approx(2)
    assert (high - low) / 2 == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)


def test_paired_interval_of_too_few_or_unknown_differences_says_nothing():
    assert paired_interval([]) is None
    assert paired_interval([1.0]) is None
    assert paired_interval([1.0, math.nan]) is None
    assert paired_interval([1.0, math.inf, 2.0]) is None


def test_paired_interval_of_equal_differences_has_no_width():
    assert paired_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize("confidence", [0, 1, -1, 95, math.nan])
def test_a_confidence_outside_0_and_1_is_refused(confidence):
    for interval in (paired_interval, median_interval):
        with pytest.raises(SettingError, match="confidence"):
            interval([1.0, 2.0], confidence)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_paired_intervals_hold_the_true_mean_as_often_as_they_promise(n):
    draw = random.Random(0)
    held = 0
    for _ in range(2000):
        low, high = paired_interval([draw.gauss(3, 2) for _ in range(n)])
        held += low <= 3 <= high
    assert 0.93 < held / 2000 < 0.97


def test_median_interval_is_order_statistics_of_the_binomial():
    assert median_interval(range(5)) is None  # 2 / 2**5 is more than 5 %
    assert median_interval(range(6)) == (0, 5)
    assert median_interval(range(9)) == (1, 7)  # table of the sign test: k = 2 for n = 9
    assert median_interval(range(20)) == (5, 14)  # k = 6 for n = 20
    assert median_interval([]) is None


@pytest.mark.parametrize("n", [7, 20, 51])
def test_median_intervals_hold_the_true_median_of_a_skewed_distribution(n):
    draw = random.Random(0)
    held = 0
    for _ in range(2000):
        low, high = median_interval([draw.lognormvariate(0, 1) for _ in range(n)])
        held += low <= 1 <= high
    assert held / 2000 > 0.94


def test_a_nan_has_no_place_in_an_order():
    with pytest.raises(SettingError, match="NaN"):
        median_interval([1.0, math.nan])
