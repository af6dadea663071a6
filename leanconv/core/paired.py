"""Confidence intervals of paired measurements, for few values and without a package for statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence

from leanconv.core.errors import SettingError

CONFIDENCE = 0.95


def paired_interval(differences: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Confidence interval of the mean of paired differences, such as the accuracies of two methods with the same seeds.

        mean -+ t(1 - (1 - confidence) / 2; n - 1) * s / sqrt(n)

    The differences are assumed to be normal. Their standard deviation s is estimated from the differences themselves, so few
    pairs give a wide interval: 12.7 s / sqrt(2) on each side for two pairs. The two quantities differ if the interval does
    not contain 0.

    Args:
        differences: one number for each pair, in any unit; the interval has the same unit.
        confidence: between 0 and 1.

    Returns:
        (low, high); None for fewer than two pairs, or if a difference is not finite. Equal differences give an interval of
        width 0.

    Raises:
        SettingError: `confidence` is not between 0 and 1.

    Source: Student 1908, "The probable error of a mean".

    >>> low, high = paired_interval([0.3, 0.5, 0.4, 0.6])
    >>> round(low, 2), round(high, 2)
    (0.24, 0.66)
    """
    _check(confidence)
    n = len(differences)
    if n < 2 or not all(map(math.isfinite, differences)):
        return None
    mean = math.fsum(differences) / n
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in differences) / (n - 1))
    half = student_t(confidence, n - 1) * spread / math.sqrt(n)
    return mean - half, mean + half


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Confidence interval of the median of any distribution: the k-th smallest value and the k-th largest value.

        P(fewer than k of n values lie below the median) = sum_(i < k) C(n, i) / 2**n <= (1 - confidence) / 2

    k is the largest number for which this holds. The interval suits ratios of latencies from interleaved rounds: their
    distribution is skewed, and a single disturbed round must not change the result.

    Args:
        values: independent values; infinities are allowed, NaN is not.
        confidence: between 0 and 1; the interval contains the median with at least this probability.

    Returns:
        (low, high); None for too few values: fewer than 6 for 95 %.

    Raises:
        SettingError: `confidence` is not between 0 and 1, or a value is NaN.

    Source: Thompson 1936, "On confidence ranges for the median".

    >>> median_interval([1.2, 1.3, 1.1, 1.25, 9.0, 1.15])
    (1.1, 9.0)
    """
    _check(confidence)
    if any(map(math.isnan, values)):
        raise SettingError("values hold a NaN; leave it out, or measure again")
    ordered, n = sorted(values), len(values)
    outside, k = 0.0, 0
    while k < n // 2:
        outside += math.comb(n, k) / 2**n
        if outside > (1 - confidence) / 2:
            break
        k += 1
    return None if k == 0 else (ordered[k - 1], ordered[n - k])


def student_t(confidence: float, degrees: int) -> float:
    """The two-sided quantile t of Student's distribution: P(abs(T) < t) = confidence.

    Args:
        confidence: between 0 and 1.
        degrees: the degrees of freedom, at least 1.

    Raises:
        SettingError: `confidence` is not between 0 and 1, or `degrees` is less than 1.

    >>> round(student_t(0.95, 4), 3)
    2.776
    """
    _check(confidence)
    if degrees < 1:
        raise SettingError(f"degrees={degrees} must be at least 1")
    low, high = 0.0, math.pi / 2  # of atan(t / sqrt(degrees))
    for _ in range(100):
        middle = (low + high) / 2
        if _within(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def _within(angle: float, degrees: int) -> float:
    """P(abs(t) < sqrt(degrees) * tan(angle)). Source: Abramowitz & Stegun, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for factor in range(2 + odd, degrees - 1, 2):
        term *= (factor - 1) / factor * cosine**2
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise SettingError(f"confidence={confidence} must be between 0 and 1, such as {CONFIDENCE}")
