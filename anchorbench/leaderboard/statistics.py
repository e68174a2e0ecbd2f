"""Statistics of an entry's rows, and comparison of entries.

Statistics      per task, over seeds: the share of inferential runs with its Wilson interval; means of held-out and seen accuracy
    with t-intervals, no narrower than the Wilson interval over all answers. Overall: unweighted means over tasks. The share's
    interval is Wilson's at the effective number of runs, as for a stratified sample: runs of one task vary less than runs
    of the suite. (A bootstrap interval would have zero width where all runs agree.) Half-widths of the accuracies' intervals add
    in quadrature. All intervals are 95%.
Ranking         by the mean inferential share; a rank is one more than the number of entries whose interval lies wholly above.
Better than     p < 0.01 in the exact one-sided permutation test that exchanges runs between two entries within each task.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import stats

from anchorbench.intervals import wilson
from anchorbench.leaderboard.entry import (
    SEEDS,
    Entry,
    Interval,
    Row,
    Statistics,
    SubmittedRecipe,
    TaskStatistics,
    seen_and_held_out,
)
from anchorbench.sweeps.summary import Mean
from anchorbench.verdict import Share

BETTER = 0.01
"""p-value below which an entry may be called better than another."""


def statistics_of(recipe: SubmittedRecipe, rows: Sequence[Row]) -> Statistics:
    """Statistics of the complete rows of a suite."""
    tasks: list[TaskStatistics] = []
    flops = flops_to_verdict = 0.0
    for task in recipe.suite:
        members = [row for row in rows if (row.task, row.variant) == (task.task, task.variant)]
        shares = [seen_and_held_out(task, row) for row in members]
        count = Counter(row.verdict for row in members)
        inferential = Share(count["inferential"], len(members))
        low, high = inferential.interval
        tasks.append(
            TaskStatistics(
                task=task.task,
                variant=task.variant,
                inferential=Interval(value=inferential.value, low=low, high=high),
                held_out=_mean([held_out for _, held_out in shares]),
                seen=_mean([seen for seen, _ in shares]),
                verdicts=(count["inferential"], count["mixed"], count["memorizing"], count["underfit"]),
            )
        )
        per_step = 2.0 * recipe.recipe(task, 0).macs_per_step()
        flops += per_step * sum(row.steps for row in members)
        flops_to_verdict += per_step * sum(row.settled for row in members)
    return Statistics(
        inferential=share_of_suite([task.verdicts[0] for task in tasks], SEEDS),
        held_out=mean_of_tasks([task.held_out for task in tasks]),
        seen=mean_of_tasks([task.seen for task in tasks]),
        member_steps=sum(row.steps for row in rows),
        member_steps_to_verdict=sum(row.settled for row in rows),
        flops=flops,
        flops_to_verdict=flops_to_verdict,
        seconds=math.fsum(row.seconds for row in rows),
        tasks=tuple(tasks),
    )


def _mean(shares: list[Share]) -> Interval:
    """Mean over seeds with a t-interval no narrower than Wilson's over all their answers: agreement is not certainty."""
    mean = Mean.of([share.value for share in shares])
    low, high = Share(sum(share.hits for share in shares), sum(share.n for share in shares)).interval
    return Interval(value=mean.value, low=min(mean.low, low), high=max(mean.high, high))


def share_of_suite(counts: Sequence[int], n: int) -> Interval:
    """Mean over tasks of the share of inferential runs, `counts[t]` out of `n` in task t.

    The interval is Wilson's at the effective number of runs: their total, divided by the ratio of their within-task variance
    to the variance of runs pooled regardless of task. Half a run is added to each side, so that neither variance is zero.
    """
    value = sum(counts) / (n * len(counts))
    smoothed = [(count + 0.5) / (n + 1) for count in counts]
    overall = math.fsum(smoothed) / len(smoothed)
    within = math.fsum(share * (1 - share) for share in smoothed) / len(smoothed)
    members = n * len(counts) * overall * (1 - overall) / within
    low, high = wilson(value * members, members)
    return Interval(value=value, low=max(0.0, min(value, low)), high=min(1.0, max(value, high)))


def mean_of_tasks(intervals: Sequence[Interval]) -> Interval:
    """Mean of independent estimates; the half-widths of their intervals add in quadrature, separately for each side."""
    n = len(intervals)
    value = math.fsum(each.value for each in intervals) / n
    below = math.hypot(*(each.value - each.low for each in intervals)) / n
    above = math.hypot(*(each.high - each.value for each in intervals)) / n
    return Interval(value=value, low=max(0.0, value - below), high=min(1.0, value + above))


def ranking(entries: Sequence[Entry]) -> list[tuple[int, Entry]]:
    """(rank, entry) sorted by rank, and by score within a rank; the entries must be of one track."""

    def rank(entry: Entry) -> int:
        return 1 + sum(other.statistics.inferential.low > entry.statistics.inferential.high for other in entries)

    def key(ranked: tuple[int, Entry]) -> tuple[int, float, float, str]:
        number, entry = ranked
        return number, -entry.statistics.inferential.value, -entry.statistics.held_out.value, entry.digest

    return sorted([(rank(entry), entry) for entry in entries], key=key)


def better_than(a: Entry, b: Entry) -> float:
    """One-sided p-value of `a` scoring above `b`; below BETTER, `a` may be called better.

    Under the null hypothesis, each of a task's runs could have come from either entry. Given a task's total number of
    inferential runs, the number in `a` is then hypergeometric; the test statistic is the sum over tasks, so its exact
    distribution is a convolution. Raises ValueError for entries of different tracks.
    """
    if a.recipe.track != b.recipe.track:
        raise ValueError(f"entries are of tracks {a.recipe.track} and {b.recipe.track}; allowed: one track")
    counts = [[entry.statistics.tasks[i].verdicts[0] for i in range(len(a.suite))] for entry in (a, b)]
    return permutation_p(counts[0], counts[1], SEEDS)


def permutation_p(a: Sequence[int], b: Sequence[int], n: int) -> float:
    """P(sum at least that of `a`) if, of each task's `a[t] + b[t]` successes among 2n runs, any n could be those of `a`."""
    distribution = np.ones(1)
    for ours, theirs in zip(a, b, strict=True):
        distribution = np.convolve(distribution, stats.hypergeom.pmf(np.arange(n + 1), 2 * n, ours + theirs, n))
    return float(min(1.0, distribution[sum(a) :].sum()))
