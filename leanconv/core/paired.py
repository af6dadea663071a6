"""Whether two measured things differ: confidence intervals from pairs, for few values and without a package for statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence

from leanconv.core.errors import SettingError

CONFIDENCE = 0.95


def paired_interval(differences: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Confidence interval of the mean of paired differences, such as one method's accuracy less another's, seed by seed.

        mean -+ t(1 - (1 - confidence) / 2; n - 1) * s / sqrt(n)

    The pairs' differences are taken as normal; their spread is estimated from them, so that few pairs give a wide interval:
    12.7 s / sqrt(2) on each side for two of them. Two things differ where the interval leaves out 0.

    Args:
        differences: one a pair, in any unit; the interval has that unit.
        confidence: between 0 and 1.

    Returns:
        (low, high); None for fewer than two pairs, or where one is not finite: nothing can be said then. Equal differences
        give an interval without width.

    Raises:
        SettingError: a confidence that is not between 0 and 1.

    Source: Student 1908, "The probable error of a mean".
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
    """Confidence interval of the median, whatever the distribution: the k-th least value and the k-th greatest.

        P(fewer than k of n values lie below the median) = sum_(i < k) C(n, i) / 2**n <= (1 - confidence) / 2

    For ratios of latencies measured side by side, a round each: they are skewed, and one disturbed round says little.

    Args:
        values: independent ones; NaN is not allowed, infinities are.
        confidence: between 0 and 1; the interval holds the median at least as often.

    Returns:
        (low, high); None where there are too few values: fewer than 6 for 95 %.

    Raises:
        SettingError: a confidence that is not between 0 and 1, or a NaN.

    Source: Thompson 1936, "On confidence ranges for the median".
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
    """The t that a Student variable of so many degrees of freedom stays within, on both sides, with this probability.

    Raises:
        SettingError: a confidence that is not between 0 and 1, or fewer than one degree.
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
