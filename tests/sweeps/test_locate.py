"""Locating a boundary: against deciders whose boundary is known, and the posterior against a plain double loop."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorbench.sweeps.locate import FIRST, SCALES, SHARPEST, Asked, Boundary, _quantiles, locate


def step(boundary, *, rising=False):
    """All members below the boundary are of one type, all above of the other."""
    return lambda value, seeds: [(value > boundary) == rising] * len(seeds)


def noisy(boundary, scale, rng, *, rising=False):
    """The share of True is a logistic curve."""
    sign = 1 if rising else -1
    return lambda value, seeds: (rng.random(len(seeds)) < 1 / (1 + math.exp(-sign * (value - boundary) / scale))).tolist()


def test_golden_bisection():
    """Range 16, width 2.2, boundary 4.7: by hand 0 and 16, then 8, 4 and 6, which leaves the bracket (4, 6)."""
    found = locate(step(4.7), 0.0, 16.0, width=2.2, seeds=8)
    assert [member.value for member in found.asked] == [value for value in (0, 16, 8, 4, 6) for _ in range(4)]
    assert [member.outcome for member in found.asked] == [value < 4.7 for value in (0, 16, 8, 4, 6) for _ in range(4)]
    assert found.value == pytest.approx(5, abs=0.1)  # the middle of the bracket: nothing tells more
    assert found.interval == pytest.approx((4, 6), abs=0.2)
    assert found.settled
    assert not found.rising
    assert (found.members, found.grid_members) == (20, 9 * 8)


def test_no_seed_is_asked_twice():
    calls = []

    def decide(value, seeds):
        calls.append((value, seeds))
        return [value < 0.53] * len(seeds)

    found = locate(decide, 0.3, 0.8, width=0.05, seeds=8)
    seeds = [seed for _, some in calls for seed in some]
    assert seeds == list(range(found.members))
    assert [(member.value, member.seed) for member in found.asked] == [(value, seed) for value, some in calls for seed in some]


@settings(max_examples=25)
@given(
    low=st.floats(-10, 10),
    size=st.floats(0.1, 100),
    where=st.floats(0.05, 0.95),
    cells=st.integers(8, 60),
    rising=st.booleans(),
)
def test_sharp_boundary(low, size, where, cells, rising):
    """The last bracket always holds it; the interval, of 95%, need not: see below."""
    high, boundary = low + size, low + where * size
    found = locate(step(boundary, rising=rising), low, high, width=size / cells, seeds=8)
    left = max(member.value for member in found.asked if member.outcome != rising)
    right = min(member.value for member in found.asked if member.outcome == rising)
    assert left <= boundary < right
    assert abs(found.value - boundary) <= found.width
    assert found.interval[0] <= found.value <= found.interval[1]
    assert found.settled
    assert found.rising == rising
    assert found.members <= found.grid_members / 2
    assert found.members <= FIRST * (4 + math.ceil(math.log2(cells)))


def test_coverage_of_sharp_boundaries():
    rng = np.random.default_rng(0)
    boundaries, cells = rng.uniform(0.05, 0.95, 100).tolist(), rng.integers(8, 61, 100).tolist()
    found = [locate(step(boundary), 0.0, 1.0, width=1 / n, seeds=8).interval for boundary, n in zip(boundaries, cells, strict=True)]
    assert sum(low <= boundary <= high for boundary, (low, high) in zip(boundaries, found, strict=True)) >= 95


def test_coverage():
    """The 95% interval holds the boundary in at least 90 of 100 runs, whether the transition is narrower or wider than `width`."""
    rng = np.random.default_rng(20)
    held, errors = 0, []
    for run in range(100):
        boundary, scale, rising = rng.uniform(0.4, 0.7), (0.005, 0.015, 0.03, 0.04)[run % 4], run % 8 < 4
        found = locate(noisy(boundary, scale, rng, rising=rising), 0.2, 0.9, width=0.05, seeds=8)
        held += found.interval[0] <= boundary <= found.interval[1]
        errors.append(found.value - boundary)
        assert found.members <= found.grid_members / 2
        assert found.rising == rising
    assert held >= 90
    assert abs(np.mean(errors)) < 3 * np.std(errors) / math.sqrt(len(errors))  # no bias
    assert np.std(errors) < 0.02


def test_wide_transition_is_not_called_settled():
    rng = np.random.default_rng(1)
    found = locate(noisy(0.5, 0.06, rng), 0.0, 1.0, width=0.02, seeds=4)
    assert not found.settled
    assert found.interval[1] - found.interval[0] > 0.02
    assert found.grid_members // 2 - FIRST < found.members <= found.grid_members // 2  # all that is allowed was used


def test_undecided_members_count_for_nothing():
    """Every other member is undecided: the outcome is that of the decided ones."""

    def decide(value, seeds):
        return [None if seed % 2 else value < 0.53 for seed in seeds]

    found = locate(decide, 0.3, 0.8, width=0.05, seeds=8)
    assert found.interval[0] <= 0.53 <= found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.1
    assert [member.outcome is None for member in found.asked] == [member.seed % 2 == 1 for member in found.asked]
    assert sum(member.value == 0.3 for member in found.asked) == 8  # four decided ones are needed at an end


def test_undecided_band():
    """No member between .45 and .6 is decided: the interval covers the band, and both its edges are found."""

    def decide(value, seeds):
        return [None if 0.45 < value < 0.6 else value < 0.5] * len(seeds)

    found = locate(decide, 0.0, 1.0, width=0.05, seeds=8)
    assert not found.settled
    assert found.interval[0] == pytest.approx(0.45, abs=0.05)
    assert found.interval[1] == pytest.approx(0.6, abs=0.05)
    assert found.members <= found.grid_members // 2


def test_end_asks_more_where_four_do_not_decide():
    """One of the first four at the low end is of the other type; 7 of 8 decide (Wilson: .53 to .98)."""
    found = locate(lambda value, seeds: [value < 0.5 and seed != 2 for seed in seeds], 0.0, 1.0, width=0.1, seeds=12)
    assert [member.outcome for member in found.asked[:8]] == [True, True, False, *[True] * 5]
    assert [member.value for member in found.asked[:12]] == [0] * 8 + [1] * 4


@pytest.mark.parametrize(
    ("decide", "counts"),
    [
        (lambda value, seeds: [True] * len(seeds), "4 of 4 decided runs at 0.3 and 4 of 4 decided runs at 0.8"),
        (lambda value, seeds: [False] * len(seeds), "0 of 4 decided runs at 0.3 and 0 of 4 decided runs at 0.8"),
        (lambda value, seeds: [None] * len(seeds), "0 of 0 decided runs at 0.3 and 0 of 0 decided runs at 0.8"),
        (
            lambda value, seeds: [value < 0.5 or seed % 2 == 0 for seed in seeds],
            "4 of 4 decided runs at 0.3 and 3 of 6 decided runs at 0.8",
        ),
    ],
    ids=["both first", "both other", "none decided", "one end even"],
)
def test_no_boundary(decide, counts):
    with pytest.raises(ValueError, match=f"no boundary between 0.3 and 0.8: of the first type are {counts}; allowed: ends"):
        locate(decide, 0.3, 0.8, width=0.1, seeds=6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": 0.8}, "range is 0.8 to 0.8"),
        ({"low": math.nan}, "range is nan to 0.8"),
        ({"high": math.inf}, "range is 0.3 to inf"),
        ({"width": 0.0}, "width is 0; allowed: 0.0005 to 0.5"),
        ({"width": -0.1}, "width is -0.1; allowed"),
        ({"width": math.nan}, "width is nan; allowed"),
        ({"width": 0.6}, "width is 0.6; allowed"),
        ({"width": 0.0001}, "width is 0.0001; allowed"),
        ({"seeds": 3}, "seeds is 3; allowed: 4 to 1000"),
    ],
)
def test_bad_arguments(changes, message):
    def never(value, seeds):
        raise AssertionError("nothing may be trained")

    with pytest.raises(ValueError, match=message):
        locate(never, **{"low": 0.3, "high": 0.8, "width": 0.05, "seeds": 8, **changes})


def test_wrong_number_of_outcomes():
    with pytest.raises(ValueError, match="decide gave 3 outcomes for 4 seeds"):
        locate(lambda value, seeds: [True] * 3, 0.0, 1.0, width=0.1, seeds=8)


def test_posterior_against_a_plain_loop():
    rng = np.random.default_rng(3)
    asked = [Asked(value, seed, rng.random() < value) for seed, value in enumerate([0.0, 0.4, 0.4, 0.5, 0.7, 0.7, 1.0])]
    asked.append(Asked(0.45, 7, None))
    boundaries, scales = np.linspace(0, 1, 101), np.geomspace(SHARPEST * 0.1, 1, SCALES)
    weights = []
    for boundary in boundaries:
        total = 0.0
        for scale in scales:
            product = 1.0
            for member in asked:
                if member.outcome is not None:
                    share = 1 / (1 + math.exp(-(member.value - boundary) / scale))
                    product *= share if member.outcome else 1 - share
            total += product
        weights.append(total)
    expected, passed = [], 0.0
    for boundary, weight in zip(boundaries, weights, strict=True):
        passed += weight / sum(weights)
        while len(expected) < 3 and passed >= (0.025, 0.5, 0.975)[len(expected)]:
            expected.append(boundary)
    assert _quantiles(asked, boundaries, scales, rising=True) == tuple(expected)
    mirrored = [Asked(member.value, member.seed, None if member.outcome is None else not member.outcome) for member in asked]
    assert _quantiles(mirrored, boundaries, scales, rising=False) == tuple(expected)


def test_written_as_json():
    found = locate(step(0.53, rising=True), 0.3, 0.8, width=0.05, seeds=8)
    read = json.loads(json.dumps(asdict(found), allow_nan=False))
    read["asked"] = tuple(Asked(**member) for member in read["asked"])
    read["interval"] = tuple(read["interval"])
    assert Boundary(**read) == found
