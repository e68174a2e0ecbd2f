"""Intervals over held-out pairs and rank correlations over runs, by hand and against trials."""

import numpy as np
import pytest

from anchorbench.claim import CANNOT, DOES_NOT, REPLICATES, Measure
from anchorbench.claims.composite_runs import over_pairs, rank_correlation, related


def test_seeds_of_one_pair_count_as_one() -> None:
    by_hand = over_pairs(np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 0.2, 0.4, 0.6, 0.8, 1.0, 0.2]))
    assert by_hand == Measure.of([0.1, 0.3, 0.5, 0.7, 0.9, 0.6])
    assert over_pairs(np.array([0.1, 0.3])).n == 2


def test_rank_correlation_by_hand() -> None:
    found = rank_correlation([1, 2, 3, 4, 5], [1, 2, 3, 5, 4])  # 1 - 6 * 2 / (5 * 24) = 0.9
    assert (found.value, found.n) == (pytest.approx(0.9), 5)
    assert rank_correlation([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]).value == pytest.approx(-1)
    for empty in (rank_correlation([1, 2, 3], [1, 2, 3]), rank_correlation([1] * 9, range(9)), rank_correlation([], [])):
        assert (empty.low, empty.high) == (-1, 1), "nothing can be said"


def test_its_interval_covers() -> None:
    rng, inside = np.random.default_rng(0), 0
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's of normal variables with correlation 0.6
    for _ in range(400):
        x = rng.standard_normal(24)
        found = rank_correlation(x, 0.6 * x + 0.8 * rng.standard_normal(24))
        inside += found.low < truth < found.high
    assert inside / 400 > 0.92


def test_related() -> None:
    def between(low: float, high: float) -> Measure:
        return Measure(value=(low + high) / 2, low=low, high=high, n=24)

    cases = ((0.1, 0.9), (-0.5, 0.2), (-0.1, 0.6))
    assert [related(between(*case)) for case in cases] == [REPLICATES, DOES_NOT, CANNOT]
