"""A probe's scores: the value, its 95% interval, and the same measure under the probe's control."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from anchorbench.intervals import half_width, mean_and_half_width
from anchorbench.palette import BLUE, GREEN, GREY, VERMILION

COLORS = {"trained": BLUE, "control": GREY, "key": GREEN, "anchor": VERMILION}

BLOCKS = 20
"""Jackknife blocks; the interval is 3% wider than with arbitrarily many."""


class Score(NamedTuple):
    """`value`, its 95% interval `low` to `high`, and the same measure under the probe's control."""

    value: float
    low: float
    high: float
    control: float

    def within(self, lowest: float, highest: float) -> "Score":
        """The same score with its interval clipped to the measure's range."""
        return self._replace(low=max(self.low, lowest), high=min(self.high, highest))


@runtime_checkable
class Result(Protocol):
    """The interface of every probe's result."""

    size: ClassVar[tuple[float, float]]
    """Width and height of the figure in inches."""

    @property
    def does_not_show(self) -> str:
        """One sentence: what must not be concluded from the scores."""
        ...

    def scores(self) -> dict[str, Score]:
        """A flat table of named scores."""
        ...

    def draw(self, figure: Any) -> None:
        """Draws on a matplotlib figure or subfigure."""
        ...


def mean_score(values: Float[np.ndarray, " units"], control: float) -> Score:
    """Mean over independent units, with its t-interval. Raises ValueError for fewer than two units."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} sequences or keys; allowed: at least 2, so that there is an interval")
    mean, half = mean_and_half_width(values)
    return Score(mean, mean - half, mean + half, control)


def mean_scores(
    found: dict[str, Float[np.ndarray, "members units"]], control: dict[str, Float[np.ndarray, "members units"]]
) -> dict[str, Score]:
    """The first member's mean scores, omitting those that are NaN because they do not apply to the task."""
    asked = [name for name, values in found.items() if np.isfinite(values[0]).all()]
    return {name: mean_score(found[name][0], float(control[name][0].mean())) for name in asked}


def jackknife_scores(
    statistic: Callable[[Int[np.ndarray, " kept"]], dict[str, float]], units: int, control: dict[str, float]
) -> dict[str, Score]:
    """Scores of `statistic(indices of the units used)` on all units, with a jackknife interval over (blocks of) units."""
    everyone = np.arange(units)
    blocks = min(units, BLOCKS)
    without = [statistic(everyone[everyone % blocks != block]) for block in range(blocks)]
    scores: dict[str, Score] = {}
    for name, value in statistic(everyone).items():
        half = half_width(float(np.sqrt((blocks - 1) * np.var([left[name] for left in without]))), blocks)
        scores[name] = Score(value, value - half, value + half, control[name])
    return scores


def draw_scores(axes: Any, scores: dict[str, Score]) -> None:
    """One row per score, from top to bottom: dot and line for value and interval, a hollow diamond for the control."""
    rows = np.arange(len(scores))[::-1]
    for row, score in zip(rows, scores.values(), strict=True):
        axes.plot([score.low, score.high], [row, row], color=COLORS["trained"], lw=2, solid_capstyle="butt", zorder=2)
    values, controls = ([getattr(score, name) for score in scores.values()] for name in ("value", "control"))
    axes.scatter(
        controls, rows, marker="D", s=28, facecolor="white", edgecolor=COLORS["control"], lw=1.3, zorder=3, label="control"
    )
    axes.scatter(values, rows, s=28, color=COLORS["trained"], zorder=4, label="this model, 95% interval")
    axes.set_yticks(rows, list(scores))
    axes.set_ylim(-0.6, len(scores) - 0.4)
    axes.grid(axis="x", color="#e6e6e6", lw=0.6, zorder=0)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
