"""Locates the boundary between two solution types along one numeric axis, with fewer runs than a grid needs.

New values are sampled where the boundary may still be: after both ends, always the middle of the gap between sampled values that
overlaps most with the boundary's 95% interval. Where runs agree this is bisection; where they do not, samples spread around the
boundary, and nothing is ruled out on too little evidence, because the interval is recomputed from all runs every time.

The share of True is modelled as a logistic curve along the axis. Its midpoint (the boundary; flat prior between the ends) and its
scale (log-uniform prior, from a step to the whole range) have a joint posterior, which is summed over a grid. The posterior stays
finite for separable data, where maximum likelihood diverges (the interval is then the last bracket), and does not depend on when
sampling stopped. Every run has its own seed, since runs with the same seed at close values have correlated outcomes.
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
"""Runs sampled at a time: the fewest whose share, if they all agree, has a Wilson interval on one side of one half."""
FINENESS = 25
"""Posterior grid steps per `width`."""
SHARPEST, SCALES = 0.1, 30
"""The smallest scale in the posterior grid, in widths (a step, as far as that width can resolve), and the number of scales."""
MOST_CELLS, MOST_SEEDS = 1000, 1000


@dataclass(frozen=True)
class Asked:
    """One run: its value on the axis, its seed, and its type (None: undecided)."""

    value: float
    seed: int
    outcome: bool | None


@dataclass(frozen=True)
class Boundary:
    """The value at which half of the decided runs are of the first type."""

    value: float
    """Posterior median."""
    interval: tuple[float, float]
    """95% credible interval."""
    rising: bool
    """Whether the first type is at the high end."""
    width: float
    """Requested width of the interval."""
    grid_members: int
    """Number of runs in a grid with this spacing over the same range."""
    asked: tuple[Asked, ...]
    """All runs, in the order of training."""

    @property
    def members(self) -> int:
        return len(self.asked)

    @property
    def settled(self) -> bool:
        """Whether the interval is as narrow as requested; if not, runs vary too much for the allowed cost."""
        return self.interval[1] - self.interval[0] <= self.width


def locate(
    decide: Callable[[float, list[int]], list[bool | None]], low: float, high: float, *, width: float, seeds: int
) -> Boundary:
    """Finds the boundary between `low` and `high` to an interval of `width`, with at most half of a grid's runs.

    `decide(value, seeds)` trains one run per seed and returns whether it is of the first type, of the other, or undecided.
    `seeds` is the grid's number of runs per value, and the maximum number sampled at an end. Sampling stops when the interval is
    narrow enough, or the next runs would exceed half of the grid (in a small grid: the cost of bisecting a sharp boundary).
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
            raise ValueError(f"decide gave {len(outcomes)} outcomes for {n} seeds; allowed: one per seed")
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
    """Majority type of the runs at `value`; None if the Wilson interval of their share contains one half."""
    share = _share(asked, value)
    if share.n and share.above(0.5):
        return True
    return False if share.n and share.below(0.5) else None


def _words(asked: list[Asked], value: float) -> str:
    share = _share(asked, value)
    return f"{share.hits} of {share.n} decided runs at {value:g}"


def _quantiles(
    asked: list[Asked], boundaries: Float[np.ndarray, " boundary"], scales: Float[np.ndarray, " scale"], rising: bool
) -> tuple[float, float, float]:
    """The 2.5%, 50% and 97.5% quantiles of the boundary's posterior."""
    values = sorted({member.value for member in asked})
    shares = [_share(asked, value) for value in values]
    hits = np.array([share.hits for share in shares])
    misses = np.array([share.n for share in shares]) - hits
    distance = (np.array(values) - boundaries[:, None]) * (1 if rising else -1)
    # log likelihood [scale, boundary]: a run at `distance` is True with probability expit(distance / scale).
    table = np.array([log_expit(distance / scale) @ hits + log_expit(-distance / scale) @ misses for scale in scales])
    cumulative = np.exp(table - table.max()).sum(0).cumsum()
    low, middle, high = boundaries[np.searchsorted(cumulative, np.array([0.025, 0.5, 0.975]) * cumulative[-1])].tolist()
    return low, middle, high
