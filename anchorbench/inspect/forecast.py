"""The mechanistic verdict: a forecast of the share of held-out answers that a model composes, from trained sequences only.

The forecast is the share of held-out sequences that are answered by composing when their state is put together from trained
sequences (`recombine`), after the layer at which the same recombination of trained sequences is answered best. Held-out sequences
are never read by the model, and their answers decide nothing.

What is fitted is only the width of the 90% interval, on the errors of runs of one kind: see forecast.json, which
`anchorbench probe fit` writes, and `anchorbench probe validate`, which measures coverage and error on all other kinds.

Where recombination is not faithful (fewer than half of the trained sequences are answered right), or the model does not fit, the
forecast abstains: its interval is 0 to 1, its name "cannot be told".
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field, ValidationError

from anchorbench.files import Plain, read_json
from anchorbench.inspect.open_model import OpenModel, open_one
from anchorbench.inspect.recombine import find_squares, recombined_answers
from anchorbench.task import NO_ANSWER, Examples, Task, first_sentence
from anchorbench.verdict import FEW, FIT, MOST

WIDTHS = Path(__file__).with_name("forecast.json")
COVERAGE = 0.9
FAITHFUL = 0.5
"""Least fidelity at which a forecast is made."""
NARROWEST = 0.01
SEQUENCES = 240
"""Held-out sequences, and as many trained ones, that are recombined."""

Name = Literal["inferential", "memorizing", "mixed", "cannot be told"]
Exceptional = Literal["ordered", "symmetric", "other", "cannot be told"]
Weight = Annotated[float, Field(ge=-1e3, le=1e3)]


class Widths(Plain):
    """The content of forecast.json: half-width = constant + infidelity (1 - fidelity) + spread 4 share (1 - share)."""

    constant: Weight
    infidelity: Weight
    spread: Weight
    runs: int = Field(ge=10, le=1_000_000)
    """Number of runs that it was fitted on."""

    def half(self, share: Float[np.ndarray, " n"], fidelity: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Half-width of the interval of each forecast, at least NARROWEST."""
        return np.maximum(NARROWEST, _terms(share, fidelity) @ np.array([self.constant, self.infidelity, self.spread]))

    def around(self, share: float, fidelity: float) -> "Share":
        """The forecast with its interval."""
        half = float(self.half(np.array([share]), np.array([fidelity]))[0])
        return Share(share, max(0.0, share - half), min(1.0, share + half))


def _terms(share: np.ndarray, fidelity: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(share), 1 - fidelity, 4 * share * (1 - share)], -1)


def fit_widths(share: Float[np.ndarray, " n"], fidelity: Float[np.ndarray, " n"], composed: Float[np.ndarray, " n"]) -> Widths:
    """Fits the 90% quantile of the absolute error (scikit-learn's QuantileRegressor). Raises ValueError for fewer than 10 runs."""
    from sklearn.linear_model import QuantileRegressor

    if len(share) < 10:
        raise ValueError(f"{len(share)} runs have a forecast; allowed: at least 10, to fit the width of its interval")
    fitted = QuantileRegressor(quantile=COVERAGE, alpha=0.0, fit_intercept=False).fit(
        _terms(share, fidelity), abs(composed - share)
    )
    constant, infidelity, spread = (float(weight) for weight in fitted.coef_)
    return Widths(constant=constant, infidelity=infidelity, spread=spread, runs=len(share))


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
    fidelity: float
    """Share of trained sequences that are answered right when recombined."""
    layer: int
    """The layer after which sequences are recombined, counted from 0."""
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
    widths = widths or load_widths()
    read = read_recombined(opened, task, seed)
    return [_forecast(task, read, member, widths) for member in range(opened.members)]


@dataclass(frozen=True)
class Recombined:
    """What a stack answers to recombined sequences, held-out and trained."""

    held_out: Examples
    answers: np.ndarray
    """`[members, n]`, to `held_out`, after each member's most faithful layer."""
    fidelity: np.ndarray
    layer: np.ndarray
    accuracy: np.ndarray
    """Each `[members]`."""

    def share(self, answer: np.ndarray, where: np.ndarray) -> Float[np.ndarray, " members"]:
        """Share of the sequences `where [n]` that are answered with `answer [n]`; NaN if there are none."""
        return (self.answers == answer)[:, where].mean(1) if where.any() else np.full(len(self.answers), np.nan)


def read_recombined(opened: OpenModel, task: Task, seed: int = 0) -> Recombined:
    """Recombines held-out and trained sequences. Raises ValueError as `forecast` does."""
    if "ood" not in task.splits:
        raise ValueError(f"task {task.full_name} holds nothing out: there is nothing to forecast")
    trained = task.sample("train", 2 * SEQUENCES, seed)
    trained = trained[np.array([group.role == "trained" for group in task.groups])[trained.group]][:SEQUENCES]
    asked, known = (find_squares(task, examples, seed) for examples in (task.sample("ood", SEQUENCES, seed), trained))
    faithful = (recombined_answers(opened, known) == known.examples.label).mean(2)
    layer = len(faithful) - 1 - faithful[::-1].argmax(0)  # the last of equally faithful ones
    members = np.arange(opened.members)
    return Recombined(
        asked.examples,
        recombined_answers(opened, asked)[layer, members],
        fidelity=faithful[layer, members],
        layer=layer,
        accuracy=(opened.answers(known.examples.tokens) == known.examples.label).mean(1),
    )


def _forecast(task: Task, read: Recombined, member: int, widths: Widths) -> Forecast:
    held_out, fidelity, accuracy = read.held_out, float(read.fidelity[member]), float(read.accuracy[member])
    roles = np.array([group.role for group in task.groups])[held_out.group]
    answers, composed = read.answers[member], held_out.foils["inferential"]
    why = None
    if accuracy < FIT:
        why = f"accuracy on trained sequences is only {accuracy:.2f}"
    elif fidelity < FAITHFUL:
        why = f"recombined, only {fidelity:.2f} of trained sequences are answered right"

    def share(answer: np.ndarray, where: np.ndarray) -> Share | None:
        if why is not None or not where.any():
            return None
        return widths.around(float((answers == answer)[where].mean()), fidelity)

    symmetric = held_out.foils.get("symmetric", np.full(len(answers), NO_ANSWER))
    names = {name: held_out.group == number for number, (name, _) in enumerate(task.groups)}
    return Forecast(
        composes=share(composed, roles == "held_out"),
        ordered=share(composed, roles == "mirror"),
        symmetric=share(symmetric, symmetric != NO_ANSWER),
        groups={} if why else {name: float((answers == composed)[where].mean()) for name, where in names.items() if where.any()},
        fidelity=fidelity,
        layer=int(read.layer[member]),
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
