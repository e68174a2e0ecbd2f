"""Statistics of rows, always recomputed from them, and comparison of entries.

Score           the mean over tasks of the share of held-out answers that compose, of all runs, fit or not. A task that holds out
    several pairs counts each pair once, whatever its number of runs.
Interval        95%, of the mean on these tasks: t over the units within each task, which are pairs where seeds hold out different
    ones, otherwise seeds, and no narrower than Wilson's over all answers; half-widths add in quadrature. What other tasks of this
    kind would give is another question, with another interval: t over the tasks.
Inferential     the mean over tasks of the share of runs with that verdict. Its interval is Wilson's at the effective number of
    runs, as for a stratified sample: runs of one task vary less than runs of the suite.
Better than     the exact two-sided permutation test that exchanges runs between two entries within each task and pair, corrected
    for all comparisons of the track (Holm, familywise 5%); registrations without a result count as entries.
Drawn           the mean share on the tasks that the beacon draws, with the interval over these tasks; and the gap, how much more
    composes on the suite's composite task, of which they are variants. No rank uses them.
Rank            one plus the number of entries that are better, directly or through others: no rank contradicts a comparison.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from jaxtyping import Float
from scipy.signal import fftconvolve

from anchorbench.intervals import wilson
from anchorbench.leaderboard.entry import VERDICTS, Row
from anchorbench.leaderboard.submission import SubmittedRecipe
from anchorbench.leaderboard.suite import SuiteTask
from anchorbench.sweeps.summary import Mean
from anchorbench.verdict import Share

FAMILY = 0.05
"""Probability that any 'better than' of a track is wrong."""
GRID = 200
"""Shares are rounded to this fraction in permutation tests: half a percent, less than their sampling error."""
Strata = Mapping[tuple[str, str], Sequence[float]]
"""(task, fingerprint of its data, which differs by held-out pair) -> held-out shares of the runs."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TaskStatistics:
    """Statistics of one task's rows."""

    task: SuiteTask
    composed: Interval
    """Mean share of held-out answers that compose."""
    seen: Interval
    """Mean accuracy on seen groups."""
    inferential: Share
    """Share of runs with the inferential verdict."""
    verdicts: tuple[int, ...]
    """Number of runs by verdict, as in VERDICTS."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of all rows of an entry."""

    score: Interval
    """Mean over tasks of the composed share, and its interval on these tasks."""
    over_tasks: Interval
    """The same mean, with the interval of a mean over tasks of this kind."""
    inferential: Interval
    """Mean over tasks of the share of inferential runs."""
    seen: Interval
    underfit: Share
    """Runs that did not fit their training data; their answers count in the score as they are."""
    macs: float
    """Matmul MACs of the suite's runs, from the recipe, with the passes of estimators and penalties."""
    tasks: tuple[TaskStatistics, ...]
    drawn: Interval | None
    """Mean over the drawn tasks of the composed share; None without runs on them."""
    gap: Interval | None
    """The suite's share on the composite task minus that on the drawn tasks, which are variants of it."""


def statistics_of(recipe: SubmittedRecipe, rows: Sequence[Row], drawn: Sequence[Row] = ()) -> Statistics:
    """Statistics of rows of a suite, which may be more than one entry's, and of drawn tasks; tasks without rows are left out."""
    tasks: list[TaskStatistics] = []
    for task in recipe.suite:
        members = [row for row in rows if (row.task, row.variant) == (task.task, task.variant)]
        if not members:
            continue
        count = Counter(row.verdict for row in members)
        tasks.append(
            TaskStatistics(
                task=task,
                composed=_mean([(row.fingerprint, row.composes) for row in members]),
                seen=_mean([(row.fingerprint, row.accuracy_train) for row in members]),
                inferential=Share(count["inferential"], len(members)),
                verdicts=tuple(count[verdict] for verdict in VERDICTS),
            )
        )
    of_drawn = _mean([(row.fingerprint, row.composes) for row in drawn]) if drawn else None
    alike = [task.composed for task in tasks if drawn and task.task.task == drawn[0].task]
    score = mean_of_tasks([task.composed for task in tasks])
    over = Mean.of([task.composed.value for task in tasks])
    return Statistics(
        score=score,
        over_tasks=Interval(score.value, over.low, over.high),
        inferential=share_of_suite([task.inferential for task in tasks]),
        seen=mean_of_tasks([task.seen for task in tasks]),
        underfit=Share(sum(task.verdicts[VERDICTS.index("underfit")] for task in tasks), len(rows)),
        macs=recipe.macs(),
        tasks=tuple(tasks),
        drawn=of_drawn,
        gap=_difference(mean_of_tasks(alike), of_drawn) if alike and of_drawn else None,
    )


def _mean(shares: Sequence[tuple[str, Share]]) -> Interval:
    """Mean over pairs, or over seeds where there is one pair, from (pair, share). Agreement is not certainty: its interval is no
    narrower than Wilson's over all answers.
    """
    of_pair: dict[str, list[float]] = {}
    for pair, share in shares:
        of_pair.setdefault(pair, []).append(share.value)
    pairs = list(of_pair.values())
    mean = Mean.of([fmean(values) for values in pairs] if len(pairs) > 1 else pairs[0])
    low, high = Share(sum(share.hits for _, share in shares), sum(share.n for _, share in shares)).interval
    return Interval(mean.value, min(mean.low, low), max(mean.high, high))


def _difference(a: Interval, b: Interval) -> Interval:
    """Difference of independent estimates; the half-widths of their intervals add in quadrature, separately for each side."""
    value = a.value - b.value
    return Interval(
        value, value - math.hypot(a.value - a.low, b.high - b.value), value + math.hypot(a.high - a.value, b.value - b.low)
    )


def share_of_suite(shares: Sequence[Share]) -> Interval:
    """Mean over tasks of the share of inferential runs.

    The interval is Wilson's at the effective number of runs: that of a simple sample whose variance is the stratified one's. One
    run is added to each side, so that no variance is zero or, with few runs, too small.
    """
    value = math.fsum(share.value for share in shares) / len(shares)
    smoothed = [(share.hits + 1) / (share.n + 2) for share in shares]
    overall = math.fsum(smoothed) / len(smoothed)
    variance = math.fsum(p * (1 - p) / share.n for p, share in zip(smoothed, shares, strict=True)) / len(shares) ** 2
    members = overall * (1 - overall) / variance
    low, high = wilson(value * members, members)
    return Interval(value, max(0.0, min(value, low)), min(1.0, max(value, high)))


def mean_of_tasks(intervals: Sequence[Interval]) -> Interval:
    """Mean of independent estimates; the half-widths of their intervals add in quadrature, separately for each side."""
    n = len(intervals)
    value = math.fsum(each.value for each in intervals) / n
    below = math.hypot(*(each.value - each.low for each in intervals)) / n
    above = math.hypot(*(each.high - each.value for each in intervals)) / n
    return Interval(value, max(0.0, value - below), min(1.0, value + above))


# ------------------------------------------------------------------------------------------------ comparison


def strata_of(rows: Iterable[Row]) -> dict[tuple[str, str], list[float]]:
    """The rows' held-out shares by task and pair: see `Strata`."""
    strata: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        strata.setdefault((f"{row.task}/{row.variant}", row.fingerprint), []).append(row.composes.value)
    return strata


def exchange_p(ours: Strata, theirs: Strata, grid: int = GRID) -> tuple[float, float]:
    """P(our sum at least, at most what it is) if, within each stratum, any of the runs could have been ours.

    Exact: the distribution of the sum of a random subset of each stratum, convolved over strata. Strata that only one side has say
    nothing. Nothing is assumed about the shares, which are far from normal (many runs compose all, or nothing); stratifying removes
    the differences between tasks and pairs, which are larger than those between recipes.
    """
    distribution: Float[np.ndarray, " sums"] = np.ones(1)
    total = 0
    for stratum in sorted(set(ours) & set(theirs)):
        mine, other = ([round(grid * share) for share in side[stratum]] for side in (ours, theirs))
        distribution = fftconvolve(distribution, _subset_sums([*mine, *other], len(mine)))
        total += sum(mine)
    distribution = distribution.clip(0)
    at_least, at_most = distribution[total:].sum(), distribution[: total + 1].sum()
    return min(1.0, float(at_least)), min(1.0, float(at_most))


def _subset_sums(values: Sequence[int], n: int) -> Float[np.ndarray, " sums"]:
    """P(sum) of `n` of the values, drawn at random without replacement."""
    table = np.zeros((n + 1, sum(values) + 1))
    table[0, 0] = 1.0
    for value in values:
        taken = table[:-1, : table.shape[1] - value].copy()
        table[1:, value:] += taken
    return table[n] / table[n].sum()


def flip_p(pairs: Iterable[tuple[float, float]], grid: int = GRID) -> tuple[float, float]:
    """P(sum of differences at least, at most what it is) if in each pair (our share, their share) either could have been ours.

    Exact: the signs of the differences are flipped in all ways. For runs of equal seeds, whatever the machines have in common.
    """
    differences = [round(grid * (a - b)) for a, b in pairs]
    distribution: Float[np.ndarray, " sums"] = np.ones(1)
    for difference in differences:
        either = np.zeros(abs(difference) + 1)
        either[0] += 0.5
        either[-1] += 0.5
        distribution = np.convolve(distribution, either)
    positive = sum(max(0, difference) for difference in differences)  # the sum of those with a positive sign
    return min(1.0, float(distribution[positive:].sum())), min(1.0, float(distribution[: positive + 1].sum()))


def better(scores: Sequence[float], strata: Sequence[Strata], withheld: int = 0) -> set[tuple[int, int]]:
    """The pairs (i, j) of entries of one track for which i may be called better than j, by Holm's correction for all comparisons.

    `withheld` registrations without a result count as entries, since they may have been left out for their result.
    """
    n = len(scores)
    tests: list[tuple[float, int, int]] = []
    for i in range(n):
        for j in range(i):
            more, less = exchange_p(strata[i], strata[j])
            first, second = (i, j) if more < less else (j, i)
            tests.append((min(1.0, 2 * min(more, less)), first, second))
    found: set[tuple[int, int]] = set()
    comparisons = (n + withheld) * (n + withheld - 1) // 2
    for number, (p, first, second) in enumerate(sorted(tests)):
        if p > FAMILY / (comparisons - number):
            break
        if scores[first] > scores[second]:  # they can disagree only where the entries were asked different pairs
            found.add((first, second))
    return found


def ranks(n: int, better_pairs: set[tuple[int, int]]) -> list[int]:
    """Ranks of `n` entries: one plus the number of those that are better, directly or through others."""
    above = np.zeros((n, n), bool)
    for first, second in better_pairs:
        above[first, second] = True
    for middle in range(n):
        above |= np.outer(above[:, middle], above[middle])
    return [1 + int(count) for count in above.sum(axis=0)]
