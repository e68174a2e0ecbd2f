"""The mechanistic verdict: a forecast of the share of held-out answers that a model composes, from trained sequences only.

The forecast is the share of held-out sequences that are answered by composing when their state is put together from trained
sequences (`recombine`), averaged over all sites in the model by how faithful recombination is there: the share of trained sequences
that are answered right when recombined, to the power of four. Held-out sequences are never read by the model, and their answers
decide nothing.

What is fitted is only the width of the 90% interval, on the errors of runs of one kind, with a margin for other kinds: see
forecast.json, which `anchorbench probe fit` writes, and `anchorbench probe validate`, which measures coverage and error on all
other kinds. It is wider the less faithful recombination is, and the more the sites disagree.

Where recombination is faithful nowhere (fewer than half of the trained sequences are answered right), or the model does not fit,
the forecast abstains: its name is "cannot be told".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, ValidationError

from anchorbench.files import Plain, read_json
from anchorbench.inspect.open_model import OpenModel, open_one
from anchorbench.inspect.recombine import find_sites, find_squares, recombined_answers
from anchorbench.task import NO_ANSWER, Examples, Task, first_sentence
from anchorbench.verdict import FEW, FIT, MOST

WIDTHS = Path(__file__).with_name("forecast.json")
COVERAGE = 0.9
FAITHFUL = 0.5
"""Least fidelity at which a forecast is made."""
POWER = 4
"""Sites are weighted by their fidelity to this power."""
NARROWEST = 0.01
MARGIN = 1.3
"""Widths fitted on runs of one kind are multiplied by this, so that they cover runs of other kinds too: see `validation`."""
SEQUENCES = 240
"""Held-out sequences, and as many trained ones, that are recombined."""

Name = Literal["inferential", "memorizing", "mixed", "cannot be told"]
Exceptional = Literal["ordered", "symmetric", "other", "cannot be told"]
Weight = Annotated[float, Field(ge=-1e3, le=1e3)]


class Widths(Plain):
    """The content of forecast.json: the half-width of an interval is a weighted sum of the terms of `Found`."""

    constant: Weight
    infidelity: Weight
    spread: Weight
    disagreement: Weight
    runs: int = Field(ge=10, le=1_000_000)
    """Number of runs that it was fitted on."""

    def around(self, found: "Found") -> "Share":
        """The forecast with its interval."""
        weights = np.array([self.constant, self.infidelity, self.spread, self.disagreement])
        half = max(NARROWEST, float(found.terms @ weights))
        return Share(found.share, max(0.0, found.share - half), min(1.0, found.share + half))


@dataclass(frozen=True)
class Found:
    """What is found by recombination, before any width is known."""

    share: float
    """Share of recombined held-out sequences that are answered in one way: mean over sites, weighted by fidelity."""
    disagreement: float
    """The largest such share of a site minus the smallest."""
    fidelity: float
    """Share of recombined trained sequences that are answered right, at the most faithful site."""

    @property
    def terms(self) -> Float[np.ndarray, " 4"]:
        """1, infidelity, 4 share (1 - share) and disagreement."""
        return np.array([1.0, 1 - self.fidelity, 4 * self.share * (1 - self.share), self.disagreement])


def fit_widths(found: Sequence[Found], composed: Sequence[float]) -> Widths:
    """Fits the 90% quantile of the absolute error (scikit-learn's QuantileRegressor), times `MARGIN`.

    Raises ValueError for fewer than 10 runs.
    """
    from sklearn.linear_model import QuantileRegressor

    if len(found) < 10:
        raise ValueError(f"{len(found)} runs have a forecast; allowed: at least 10, to fit the width of its interval")
    error = np.abs(np.array(composed) - [each.share for each in found])
    fitted = QuantileRegressor(quantile=COVERAGE, alpha=0.0, fit_intercept=False).fit(
        np.stack([each.terms for each in found]), error
    )
    constant, infidelity, spread, disagreement = (float(weight) for weight in MARGIN * fitted.coef_)
    return Widths(constant=constant, infidelity=infidelity, spread=spread, disagreement=disagreement, runs=len(found))


@dataclass(frozen=True)
class Share:
    """A forecast share of answers, and its 90% interval."""

    value: float
    low: float
    high: float

    def name(self) -> Name:
        """What the interval lies above, below or between; "cannot be told" if it contains a threshold."""
        if self.low > MOST:
            return "inferential"
        if self.high < FEW:
            return "memorizing"
        return "mixed" if self.low > FEW and self.high < MOST else "cannot be told"


@dataclass(frozen=True)
class Forecast:
    """The forecast for one model. Shares are None where the task does not ask for them, or the forecast abstains."""

    composes: Share | None
    """Answers to held-out groups without a trained mirror that compose."""
    ordered: Share | None
    """Answers to the mirror of a trained exception that compose."""
    symmetric: Share | None
    """Answers to the mirror of a trained exception that repeat it."""
    groups: dict[str, float]
    """Held-out group -> share of its answers that compose: pairs that share an anchor with an exception may differ from others."""
    found: Found | None
    """What `share` is made of; None if it abstains."""
    fidelity: float
    """Share of trained sequences that are answered right when recombined at the most faithful site."""
    accuracy: float
    """Accuracy on trained sequences."""
    why: str | None
    """Why it abstains."""
    asks_exception: bool
    """Whether the task has a trained exception."""

    @property
    def share(self) -> Share | None:
        """The headline: the share of ordinary held-out groups, or of the exception's mirror if there are none."""
        return self.composes or self.ordered

    @property
    def name(self) -> Name:
        """The verdict that follows."""
        return "cannot be told" if self.share is None else self.share.name()

    @property
    def exception(self) -> Exceptional | None:
        """The exception verdict that follows; None if the task has no exception."""
        if self.ordered is None or self.symmetric is None:
            return "cannot be told" if self.asks_exception else None
        if self.ordered.low > MOST:
            return "ordered"
        if self.symmetric.low > MOST:
            return "symmetric"
        return "other" if self.ordered.high < MOST and self.symmetric.high < MOST else "cannot be told"


def forecast(model: object, task: Task, seed: int = 0) -> Forecast:
    """The forecast for anything that `anchorbench.classify` accepts.

        runs = anchorbench.sweep(variant="heldout-pairs", gamma=[0.5], seeds=1)
        print(anchorbench.forecast(runs[0], anchorbench.load_task("composite", "heldout-pairs")).composes)

    Raises ValueError as `classify` does, for a model of one layer, for a task without held-out groups, and for one whose held-out
    sequences cannot be put together from trained ones.
    """
    opened, task = open_one(model, task)
    return forecasts(opened, task, seed=seed)[0]


def forecasts(opened: OpenModel, task: Task, widths: Widths | None = None, seed: int = 0) -> list[Forecast]:
    """The forecast for each member of a stack."""
    return _forecasts(opened, task, widths or load_widths(), seed)


def _forecasts(opened: OpenModel, task: Task, widths: Widths, seed: int) -> list[Forecast]:
    if "ood" not in task.splits:
        raise ValueError(f"task {task.full_name} holds nothing out: there is nothing to forecast")
    trained = task.sample("train", 2 * SEQUENCES, seed)
    trained = trained[np.array([group.role == "trained" for group in task.groups])[trained.group]][:SEQUENCES]
    asked, known = (find_squares(task, examples, seed) for examples in (task.sample("ood", SEQUENCES, seed), trained))
    sites = find_sites(opened, known.examples.tokens[:8])
    if not sites:
        raise ValueError("no layer of the model has its whole state in the residual stream: nothing can be recombined there")
    fidelity = (recombined_answers(opened, known, sites) == known.examples.label).mean((1, 3))
    answers = recombined_answers(opened, asked, sites)
    accuracy = (opened.answers(known.examples.tokens) == known.examples.label).mean(1)
    members = range(opened.members)
    return [_of_member(task, asked.examples, answers[:, :, m], fidelity[:, m], float(accuracy[m]), widths) for m in members]


def _of_member(
    task: Task,
    held_out: Examples,
    answers: Int[np.ndarray, "site square n"],
    of_site: Float[np.ndarray, " site"],
    accuracy: float,
    widths: Widths,
) -> Forecast:
    fidelity, weights = float(of_site.max()), np.maximum(of_site, 0.01) ** POWER
    roles = np.array([group.role for group in task.groups])[held_out.group]
    composed = held_out.foils["inferential"]
    symmetric = held_out.foils.get("symmetric", np.full(len(composed), NO_ANSWER))
    why = None
    if accuracy < FIT:
        why = f"accuracy on trained sequences is only {accuracy:.2f}"
    elif fidelity < FAITHFUL:
        why = f"recombined, only {fidelity:.2f} of trained sequences are answered right"

    def found(answer: np.ndarray, where: np.ndarray) -> Found | None:
        if why is not None or not where.any():
            return None
        by_site = (answers == answer)[:, :, where].mean((1, 2))
        return Found(float(np.average(by_site, weights=weights)), float(np.ptp(by_site)), fidelity)

    composes, ordered = found(composed, roles == "held_out"), found(composed, roles == "mirror")
    repeats = found(symmetric, symmetric != NO_ANSWER)
    by_group = {group.name: found(composed, held_out.group == number) for number, group in enumerate(task.groups)}
    return Forecast(
        composes=None if composes is None else widths.around(composes),
        ordered=None if ordered is None else widths.around(ordered),
        symmetric=None if repeats is None else widths.around(repeats),
        groups={name: each.share for name, each in by_group.items() if each is not None},
        found=composes or ordered,
        fidelity=fidelity,
        accuracy=accuracy,
        why=why,
        asks_exception=bool((roles == "mirror").any()),
    )


def load_widths(path: Path = WIDTHS) -> Widths:
    """Loads the fitted widths. Raises ValueError with one sentence if the file holds none."""
    try:
        return Widths.model_validate(read_json(path))
    except ValidationError as error:
        raise ValueError(f"{path} holds no widths of a forecast: {first_sentence(error)}") from None
