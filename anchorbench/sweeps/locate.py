"""The boundary between two solution types along one numeric axis, found with fewer members than a grid needs.

Members are asked where the boundary may still be: after both ends, always in the middle of the gap between asked values that
holds most of the boundary's 95% interval. Where members agree this is bisection; where they do not, the places spread around
the boundary, and nothing is ruled out on too little evidence, because the interval is computed again from all members each time.

The share of True is modelled as a logistic curve along the axis. Its middle (the boundary; flat prior between the ends) and its
scale (prior flat in the logarithm, from a step to the whole range) have a joint posterior, summed here over a table. That
stays finite for separable data, where maximum likelihood diverges - the interval is then the last bracket - and does not depend
on when the asking stopped. Every member has a seed of its own, since one seed's members at close values fall alike.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy.special import log_expit

from anchorbench.verdict import Share

FIRST = 4
"""Members asked at a time: the fewest that, if they agree, put the Wilson interval of their share on one side of one half."""
FINENESS = 25
"""Steps of the posterior's table to one `width`."""
SHARPEST, SCALES = 0.1, 30
"""The sharpest transition in the table, in widths (a step, as far as can be seen at that width), and how many there are."""
MOST_CELLS, MOST_SEEDS = 1000, 1000


@dataclass(frozen=True)
class Asked:
    """One member: where on the axis, with which seed, and what it is (None: undecided)."""

    value: float
    seed: int
    outcome: bool | None


@dataclass(frozen=True)
class Boundary:
    """Where half of the decided members are of the first type."""

    value: float
    """The posterior's median."""
    interval: tuple[float, float]
    """Holds the boundary with a probability of 95%."""
    rising: bool
    """The first type is the one at the high end."""
    width: float
    """The interval's width that was asked for."""
    grid_members: int
    """What a grid of this spacing over the same range would have trained."""
    asked: tuple[Asked, ...]
    """Every member, in the order of training."""

    @property
    def members(self) -> int:
        return len(self.asked)

    @property
    def settled(self) -> bool:
        """Whether the interval is as narrow as asked for; else members vary too much for the cost allowed."""
        return self.interval[1] - self.interval[0] <= self.width


def locate(
    decide: Callable[[float, list[int]], list[bool | None]], low: float, high: float, *, width: float, seeds: int
) -> Boundary:
    """Finds the boundary between `low` and `high` to an interval of `width`, for at most half of a grid's members.

    `decide(value, seeds)` trains a member per seed and says whether it is of the first type, of the other, or undecided.
    `seeds` is the grid's number of members a value, and the most that is asked at an end. Asking stops when the interval is
    narrow enough or the next members would pass half of the grid (in a small grid: what bisecting a sharp boundary takes).
    Raises ValueError with one sentence for a bad argument, and if the ends are not clearly of different types.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"the range is {low:g} to {high:g}; allowed: finite numbers, the first the smaller")
    if not (high - low) / MOST_CELLS <= width <= high - low:
        raise ValueError(f"width is {width:g}; allowed: {(high - low) / MOST_CELLS:g} to {high - low:g} for this range")
    if not FIRST <= seeds <= MOST_SEEDS:
        raise ValueError(f"seeds is {seeds}; allowed: {FIRST} to {MOST_SEEDS}")
    cells = math.ceil((high - low) / width - 1e-9)
    grid_members = (cells + 1) * seeds
    most = max(grid_members // 2, FIRST * (3 + math.ceil(math.log2(cells))))
    asked: list[Asked] = []

    def ask(value: float, n: int) -> None:
        fresh = list(range(len(asked), len(asked) + n))
        outcomes = decide(value, fresh)
        if len(outcomes) != n:
            raise ValueError(f"decide gave {len(outcomes)} outcomes for {n} seeds; allowed: one a seed")
        asked.extend(Asked(value, seed, outcome) for seed, outcome in zip(fresh, outcomes, strict=True))

    for end in (low, high):
        while _type(asked, end) is None and (left := seeds - sum(member.value == end for member in asked)) > 0:
            ask(end, min(FIRST, left))
    types = _type(asked, low), _type(asked, high)
    if None in types or types[0] == types[1]:
        raise ValueError(
            f"no boundary between {low:g} and {high:g}: of the first type are {_words(asked, low)} and {_words(asked, high)}; "
            "allowed: ends clearly of different types"
        )
    rising = types[1] is True
    boundaries = np.linspace(low, high, FINENESS * cells + 1)
    scales = np.geomspace(SHARPEST * width, high - low, SCALES)
    while True:
        start, middle, end = _quantiles(asked, boundaries, scales, rising)
        if end - start <= width or len(asked) + FIRST > most:
            return Boundary(middle, (start, end), rising, width, grid_members, tuple(asked))
        gaps = pairwise(sorted({member.value for member in asked}))
        left, right = max(gaps, key=lambda gap: min(gap[1], end) - max(gap[0], start))
        ask((left + right) / 2, FIRST)


def _share(asked: list[Asked], value: float) -> Share:
    outcomes = [member.outcome for member in asked if member.value == value and member.outcome is not None]
    return Share(sum(outcomes), len(outcomes))


def _type(asked: list[Asked], value: float) -> bool | None:
    """The type of most members at `value`; None if their share's Wilson interval contains one half."""
    share = _share(asked, value)
    if share.n and share.above(0.5):
        return True
    return False if share.n and share.below(0.5) else None


def _words(asked: list[Asked], value: float) -> str:
    share = _share(asked, value)
    return f"{share.hits} of {share.n} decided members at {value:g}"


def _quantiles(
    asked: list[Asked], boundaries: Float[np.ndarray, " boundary"], scales: Float[np.ndarray, " scale"], rising: bool
) -> tuple[float, float, float]:
    """The 2.5%, 50% and 97.5% points of the boundary's posterior."""
    values = sorted({member.value for member in asked})
    shares = [_share(asked, value) for value in values]
    hits = np.array([share.hits for share in shares])
    misses = np.array([share.n for share in shares]) - hits
    distance = (np.array(values) - boundaries[:, None]) * (1 if rising else -1)
    # log likelihood [scale, boundary]: a member at `distance` is True with probability expit(distance / scale).
    table = np.array([log_expit(distance / scale) @ hits + log_expit(-distance / scale) @ misses for scale in scales])
    cumulative = np.exp(table - table.max()).sum(0).cumsum()
    low, middle, high = boundaries[np.searchsorted(cumulative, np.array([0.025, 0.5, 0.975]) * cumulative[-1])].tolist()
    return low, middle, high
