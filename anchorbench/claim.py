"""What a claim is: what a paper says, an experiment as data, and the rule, written before any run, that judges what came out.

A claim is a file in `anchorbench/claims/`. Its result is one of three: it replicates, it does not replicate, or it cannot be
told at this scale. A rule is a function of measures with their 95% intervals and of nothing else, so that every verdict can be
worked out again from the ledger.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import Field, model_validator

from anchorbench.files import Plain
from anchorbench.intervals import mean_and_half_width
from anchorbench.registry import MAX_NAME, Registry, did_you_mean

Verdict = Literal["replicates", "does not replicate", "cannot be told at this scale"]
REPLICATES, DOES_NOT, CANNOT = get_args(Verdict)
Scale = Literal["laptop", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)

POWER = 0.8
Number = Annotated[float, Field(ge=-1e300, le=1e300)]
Text = Annotated[str, Field(max_length=2000)]


class Measure(Plain):
    """A figure with its 95% interval."""

    value: Number
    low: Number
    high: Number
    n: int = Field(ge=1, le=1_000_000)
    """The independent units that the interval is over: seeds, data sets, pairs."""

    @model_validator(mode="after")
    def _in_order(self) -> "Measure":
        if not self.low <= self.value <= self.high:
            raise ValueError(f"is {self.value} in {self.low} to {self.high}; allowed: a value inside its interval")
        return self

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Measure":
        """The mean over units with Student's interval."""
        mean, half = mean_and_half_width(values)
        return cls(value=mean, low=mean - half, high=mean + half, n=len(values))

    @classmethod
    def exact(cls, value: float) -> "Measure":
        """A figure that chance has no part in."""
        return cls(value=value, low=value, high=value, n=1)


class Curve(Plain):
    """A line of a plot, with a band between `low` and `high` where they are given."""

    label: Text
    x: Annotated[list[Number], Field(min_length=1, max_length=2000)]
    y: Annotated[list[Number], Field(max_length=2000)]
    low: Annotated[list[Number], Field(max_length=2000)] = []
    high: Annotated[list[Number], Field(max_length=2000)] = []
    dashed: bool = False

    @model_validator(mode="after")
    def _one_length(self) -> "Curve":
        lengths = {len(self.y), *(len(each) for each in (self.low, self.high) if each)}
        if lengths != {len(self.x)} or bool(self.low) != bool(self.high):
            raise ValueError(f"has {len(self.x)} x and {len(self.y)} y; allowed: x, y and the ends of the band of one length")
        return self

    @classmethod
    def over_units(cls, label: str, x: Sequence[float], rows: np.ndarray, *, share: bool = False, dashed: bool = False) -> "Curve":
        """The mean over units of `rows` [units, x], with Student's interval at each x: of a `share`, inside 0 to 1."""
        at = [Measure.of(column) for column in np.asarray(rows).T]
        ends = np.array([(each.low, each.high) for each in at])
        low, high = (ends.clip(0, 1) if share else ends).T.tolist()
        return cls(label=label, x=list(x), y=[each.value for each in at], low=low, high=high, dashed=dashed)


class Panel(Plain):
    """One plot."""

    title: Text
    x: Text
    """What is across, in words; `y`: upwards."""
    y: Text
    log_x: bool = False
    level: Number | None = None
    """Where a horizontal line is drawn: the value that the rule compares with."""
    curves: Annotated[list[Curve], Field(min_length=1, max_length=12)]


@dataclass(frozen=True)
class Findings:
    """What a run of the experiment gives."""

    measures: Mapping[str, Measure]
    """One for each of the claim's `measures`, under the same names."""
    panels: Sequence[Panel]
    passes: int
    """Forward and backward passes over a batch, of one model; a step of an exact recursion counts as one."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Task and variant -> fingerprint of the data, of claims that train recipes."""
    gradient: str = ""
    """The gradient paths that trained its runs, if these are recipes."""
    earlier: float = 0.0
    """Seconds that training took of runs that were in the folder already."""


class Experiment(Plain):
    """What every experiment has among its settings."""

    seeds: int = Field(ge=2, le=10_000)
    """Independent units: each has data and initial weights of its own, common to all arms, which are compared in pairs."""


class Claim(ABC):
    """One sentence of a paper, on trial."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised with every change of experiment or rule: older results are stale."""
    paper: ClassVar[str]
    """Reference, with the figure or section that the claim is from."""
    statement: ClassVar[str]
    """What is claimed, in one sentence."""
    ground: ClassVar[str]
    """The experiment, and how its ground differs from the paper's."""
    measures: ClassVar[Mapping[str, str]]
    """Name of each measure -> what it is, with its unit; the first is the claim's figure, and the rule may use no others."""
    rule: ClassVar[str]
    """How the verdict follows from the measures, written before the run."""
    published: ClassVar[str] = ""
    """The paper's own figure, in words, if it gives one."""
    reading: ClassVar[str] = ""
    """What we make of the result at laptop scale, written after the run; it decides nothing."""
    seconds: ClassVar[float]
    """Processor time that the laptop scale takes, about."""
    scales: ClassVar[Mapping[Scale, Experiment]]

    def __init__(self, settings: Any, runs: Path | None = None) -> None:
        """`runs` is the folder in which a claim keeps what it trains; a temporary one if not given."""
        self.settings, self.runs = settings, runs

    @classmethod
    def recipes(cls, settings: Any) -> list[Any]:
        """The recipes that are trained with every seed, of claims that train recipes; what that costs is worked out from them."""
        return []

    @abstractmethod
    def run(self) -> Findings:
        """Runs the experiment; the same settings give the same findings on the same machine."""

    @classmethod
    @abstractmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """The rule."""


claims: Registry[type[Claim]] = Registry("claim", "anchorbench.claims", lambda claim: str(claim.name))


def parse_scale(scale: str) -> Scale:
    """Raises ValueError with one sentence for an unknown scale."""
    for known in SCALES:
        if scale == known:
            return known
    raise ValueError(f"unknown scale {scale[:MAX_NAME]!r}; {did_you_mean(scale[:MAX_NAME], SCALES)}")


# ------------------------------------------------------------------------------------------------ rules


def above(measure: Measure, bound: float) -> Verdict:
    """Whether the interval lies above the bound, below it, or on both sides."""
    return REPLICATES if measure.low > bound else DOES_NOT if measure.high < bound else CANNOT


def below(measure: Measure, bound: float) -> Verdict:
    """Whether the interval lies below the bound, above it, or on both sides."""
    return REPLICATES if measure.high < bound else DOES_NOT if measure.low > bound else CANNOT


def all_of(*parts: Verdict) -> Verdict:
    """A claim of several parts stands if all do, and falls with any one."""
    return DOES_NOT if DOES_NOT in parts else CANNOT if CANNOT in parts else REPLICATES


def power(n: int) -> float:
    """The smallest distance of the true mean from the rule's bound, in standard deviations between units, that the interval of `n`
    units leaves on one side with 80% probability.
    """
    from scipy import stats

    effects = np.linspace(0.01, 50, 5000)
    reached = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, effects * np.sqrt(n)) >= POWER
    return float(effects[reached.argmax()])
