"""Intervals against scipy's."""

import pytest
from scipy import stats

from anchorbench.intervals import half_width, mean_and_half_width, wilson


@pytest.mark.parametrize("n", [1, 2, 7, 256, 1000, 1_000_000_000])
def test_wilson(n: int) -> None:
    for hits in {0, 1, n // 3, n // 2, n - 1, n}:
        expected = stats.binomtest(hits, n).proportion_ci(0.95, "wilson")
        assert wilson(hits, n) == pytest.approx((expected.low, expected.high), rel=1e-12, abs=1e-15)
    assert (wilson(0, n)[0], wilson(n, n)[1]) == (0, 1)


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_students_interval(n: int) -> None:
    low, high = stats.t.interval(0.95, n - 1, loc=0, scale=2.5)
    assert (-half_width(2.5, n), half_width(2.5, n)) == pytest.approx((low, high), rel=1e-12)


def test_a_mean_with_students_interval() -> None:
    mean, half = mean_and_half_width([1.0, 2.0, 6.0])
    assert (mean - half, mean + half) == pytest.approx(stats.t.interval(0.95, 2, loc=3, scale=stats.sem([1, 2, 6])))
