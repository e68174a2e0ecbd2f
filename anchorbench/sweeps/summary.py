"""Summarizes a sweep's runs by condition: means over seeds with 95% intervals, and verdict counts.

Where seeds hold out different pairs, the unit is the pair: pairs differ more than seeds do, and seeds of one pair are correlated.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from anchorbench.intervals import mean_and_half_width
from anchorbench.recipe import SEEDS, flatten
from anchorbench.sweeps.run_folder import Run


@dataclass(frozen=True)
class Mean:
    """A mean over seeds or pairs with its 95% t-interval, clipped to [0, 1]; for a single unit the interval is all of [0, 1]."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        if len(values) < 2:
            return cls(float(values[0]), 0.0, 1.0)
        mean, half = mean_and_half_width(values)
        return cls(mean, max(0.0, mean - half), min(1.0, mean + half))


@dataclass(frozen=True)
class Condition:
    """Runs that differ only in their seeds."""

    axes: dict[str, Any]
    """Dotted path of a recipe field -> its value here: gamma, and every other field that differs among the runs."""
    runs: tuple[Run, ...]

    @property
    def gamma(self) -> float:
        return self.axes["init.gamma"]

    @property
    def others(self) -> str:
        """The axes other than gamma, in words: `pre-LN, n_layer 3`."""
        return ", ".join(_words(path, value) for path, value in self.axes.items() if path != "init.gamma")

    def mean(self, field: str) -> Mean | None:
        """Mean of a field of `Run.row`, or None if the task lacks it.

        Over seeds that hold out different pairs, which tasks' fingerprints tell, it is the mean of the pairs' means.
        """
        of_pair: dict[str, list[float]] = {}
        for run in self.runs:
            if (value := run.row()[field]) is not None:
                of_pair.setdefault(run.result.task_fingerprint, []).append(value)
        pairs = list(of_pair.values())
        return Mean.of([fmean(values) for values in pairs] if len(pairs) > 1 else pairs[0]) if pairs else None

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
    """Groups runs by everything in which they differ except seeds, ordered by gamma within the other axes."""
    flat = [(run, flatten(run.recipe.model_dump())) for run in runs]
    every = dict.fromkeys(path for _, fields in flat for path in fields if path not in SEEDS)
    varying = [path for path in every if len({str(fields.get(path)) for _, fields in flat}) > 1]
    paths = [*(path for path in varying if path != "init.gamma"), "init.gamma"]
    grouped: dict[str, tuple[dict[str, Any], list[Run]]] = {}
    for run, fields in flat:
        values = {path: fields.get(path) for path in paths}
        grouped.setdefault(str(values), (values, []))[1].append(run)  # values may be lists
    found = [Condition(values, tuple(members)) for values, members in grouped.values()]
    order = {others: i for i, others in enumerate(dict.fromkeys(condition.others for condition in found))}
    return sorted(found, key=lambda condition: (order[condition.others], condition.gamma))


def clearest(runs: Sequence[Run]) -> list[Run]:
    """The clearest inferential run, and the clearest memorizing one (symmetric, where only the exception is tested)."""
    fit = [run for run in runs if run.result.verdict not in (None, "underfit") and run.result.inferential is not None]
    if not fit:
        return []
    most = max(fit, key=lambda run: (run.result.inferential or 0.0, run.result.accuracy_iid.value))
    least = min(fit, key=lambda run: (run.result.inferential or 0.0, -run.result.accuracy_iid.value))
    return [most, least] if most is not least else [most]


def _words(path: str, value: Any) -> str:
    if path == "model.norm":
        return f"{value}-LN"
    name = path.rpartition(".")[2].replace("_", " ")
    return f"{name} {value:g}" if isinstance(value, int | float) else f"{name} {value}"
