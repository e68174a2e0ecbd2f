"""A sweep's runs summarized by condition: means over seeds with 95% intervals, and counts of verdicts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from anchorbench.store import Run


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and its 95% t-interval, cut to [0, 1]; of one seed the interval is all of it."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        mean = float(np.mean(values))
        if len(values) < 2:
            return cls(mean, 0.0, 1.0)
        half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
        return cls(mean, max(0.0, mean - half), min(1.0, mean + half))


@dataclass(frozen=True)
class Condition:
    """The members that differ only in their seed."""

    norm: str
    gamma: float
    runs: tuple[Run, ...]

    def mean(self, field: str) -> Mean | None:
        """The mean of a field of `Run.row`, or None if the task does not have it."""
        values = [value for run in self.runs if (value := run.row()[field]) is not None]
        return Mean.of(values) if values else None

    @property
    def verdicts(self) -> Counter[str]:
        return Counter(run.result.verdict for run in self.runs if run.result.verdict is not None)

    @property
    def exceptions(self) -> Counter[str]:
        return Counter(run.result.exception for run in self.runs if run.result.exception is not None)

    @property
    def seconds(self) -> float:
        return sum(run.result.seconds for run in self.runs)


def conditions(runs: Iterable[Run]) -> list[Condition]:
    """The runs grouped by norm and gamma, in order."""
    grouped: dict[tuple[str, float], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.recipe.model.norm, run.recipe.init.gamma), []).append(run)
    ordered = sorted(grouped.items(), key=lambda item: (item[0][0] != "pre", item[0][1]))
    return [Condition(norm, gamma, tuple(group)) for (norm, gamma), group in ordered]
