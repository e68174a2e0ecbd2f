"""SVRG against SGD on noisy least squares (Zhang, Wu, Faghri, Zhang and Ba, OpenReview HyleclHKvS).

The expected loss is exact. Let theta* minimize the training loss of N examples, r_i = x_i' theta* - y_i, H = E_i x x', and d =
theta - theta*, with m = E d and M = E d d'; the loss is tr(H M) / 2 above its minimum. A step of rate eta on b examples, drawn
with replacement, gives (our derivation: the paper's own recursion could not be read)

    SGD     M+ = (I - eta H) M (I - eta H) + eta^2/b (E_i[x x' M x x'] + 2 E_i[r_i (x' m) x x'] + E_i[r_i^2 x x'] - H M H)
            m+ = (I - eta H) m
    SVRG    M+ = (I - eta H) M (I - eta H) + eta^2/b (E_i[x x' D x x'] - H D H),   D = M - C - C' + S
            C+ = (I - eta H) C,   where S is M at the snapshot, and C = E d d_snapshot' starts from it

Gradients are counted in evaluations of single examples: a step of SGD takes b, a step of SVRG 2b, a snapshot N.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator

from anchorbench.claim import CANNOT, Claim, Curve, Experiment, Findings, Measure, Panel, Verdict, above, all_of, below, claims
from anchorbench.files import Plain
from anchorbench.seeds import stream_seed

CHECKED = 6
"""Epochs after which recursion and Monte Carlo are compared."""
Size = Annotated[int, Field(ge=1, le=100_000)]


class Regime(Plain):
    """The size of a data set, and how long it is trained on."""

    examples: Size
    features: Size
    noise: float = Field(ge=0, le=100)
    """Standard deviation of the labels around a linear function."""
    epochs: Annotated[list[Size], Field(min_length=2, max_length=100)]
    """Budgets, in gradient evaluations per example."""


class Settings(Experiment):
    """Data sets of two regimes, and the grids on which both methods are tuned."""

    under: Regime
    over: Regime
    batch: Size
    rates: Annotated[list[Annotated[float, Field(gt=0, le=100)]], Field(min_length=2, max_length=100)]
    """Learning rates, in units of one over the largest eigenvalue of H."""
    cycles: Annotated[list[Annotated[float, Field(gt=0, le=100)]], Field(min_length=1, max_length=10)]
    """Epochs of steps between snapshots of SVRG."""
    repetitions: int = Field(ge=2, le=100_000)
    """Runs of the Monte Carlo check."""

    @model_validator(mode="after")
    def _fits(self) -> "Settings":
        for regime in (self.under, self.over):
            if regime.examples % self.batch:
                raise ValueError(f"batch is {self.batch}; allowed: a divisor of examples, {regime.examples}")
            if regime.epochs != sorted(set(regime.epochs)):
                raise ValueError(f"epochs are {regime.epochs}; allowed: budgets that grow")
        return self


class Problem:
    """A data set with its minimum, in the basis of H's eigenvectors; moments are `[rates, d, d]` and `[rates, d]`."""

    def __init__(self, x: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"], start: Float[np.ndarray, " d"]) -> None:
        values, vectors = np.linalg.eigh(x.T @ x / len(x))
        flat = values < 1e-9 * values[-1]  # no gradient ever points there
        self.curvature, vectors = values[~flat], vectors[:, ~flat]
        self.x = x @ vectors
        self.squares = (self.x[:, :, None] * self.x[:, None, :]).reshape(len(x), -1)
        """x x' of each example, as a row."""
        self.start = -np.linalg.pinv(self.x) @ (y - x @ start)
        """From the closest minimum to the start."""
        self.residual = x @ start - self.x @ self.start - y
        self.largest = float(values[-1])

    @classmethod
    def draw(cls, regime: Regime, seed: int) -> "Problem":
        """Standard normal features, a random linear function of unit variance, and zero weights to start from."""
        rng = np.random.default_rng(stream_seed(seed, "claim svrg-least-squares"))
        x = rng.standard_normal((regime.examples, regime.features))
        y = x @ rng.standard_normal(regime.features) / np.sqrt(regime.features)
        return cls(x, y + regime.noise * rng.standard_normal(regime.examples), np.zeros(regime.features))

    def fourth(self, moment: Float[np.ndarray, "rates d d"]) -> Float[np.ndarray, "rates d d"]:
        """E_i[x x' M x x']."""
        return self.weighted(moment.reshape(len(moment), -1) @ self.squares.T)

    def weighted(self, weights: Float[np.ndarray, "rates n"]) -> Float[np.ndarray, "rates d d"]:
        """E_i[w_i x x']."""
        return (weights @ self.squares / len(self.x)).reshape(len(weights), *[self.x.shape[1]] * 2)

    def loss(self, moment: Float[np.ndarray, "rates d d"]) -> Float[np.ndarray, " rates"]:
        """Above the minimum; infinite where the recursion has left the floating-point numbers."""
        found = np.einsum("i,rii->r", self.curvature, moment) / 2
        return np.where(np.isfinite(found), found, np.inf)

    def sgd(self, rates: Float[np.ndarray, " rates"], batch: int, evaluations: Sequence[int]) -> Float[np.ndarray, "budgets rates"]:
        """The expected loss after each number of gradient evaluations."""
        keep = 1 - rates[:, None] * self.curvature
        both = keep[:, :, None] * keep[:, None, :]
        step = rates[:, None, None] ** 2 / batch
        curvatures = np.outer(self.curvature, self.curvature)
        floor = self.weighted(self.residual[None] ** 2)
        mean = np.repeat(self.start[None], len(rates), 0)
        moment = np.repeat(np.outer(self.start, self.start)[None], len(rates), 0)
        found: list[np.ndarray] = []
        done = 0
        for until in evaluations:
            while done + batch <= until:
                cross = 2 * self.weighted((mean @ self.x.T) * self.residual)
                noise = self.fourth(moment) + cross + floor - curvatures * moment
                moment = both * moment + step * noise
                mean = keep * mean
                done += batch
            found.append(self.loss(moment))
        return np.array(found)

    def svrg(
        self, rates: Float[np.ndarray, " rates"], batch: int, evaluations: Sequence[int], every: int
    ) -> Float[np.ndarray, "budgets rates"]:
        """The same for SVRG with a snapshot before every `every` steps."""
        keep = 1 - rates[:, None] * self.curvature
        both = keep[:, :, None] * keep[:, None, :]
        step = rates[:, None, None] ** 2 / batch
        curvatures = np.outer(self.curvature, self.curvature)
        moment = np.repeat(np.outer(self.start, self.start)[None], len(rates), 0)
        cross = old = moment
        found: list[np.ndarray] = []
        done = steps = 0
        for until in evaluations:
            while done + 2 * batch + len(self.x) * (steps % every == 0) <= until:
                if steps % every == 0:
                    cross = old = moment
                    done += len(self.x)
                apart = moment - cross - np.swapaxes(cross, 1, 2) + old
                moment = both * moment + step * (self.fourth(apart) - curvatures * apart)
                cross = keep[:, :, None] * cross
                done += 2 * batch
                steps += 1
            found.append(self.loss(moment))
        return np.array(found)

    def simulate(self, rate: float, batch: int, evaluations: int, every: int | None, repetitions: int, seed: int) -> np.ndarray:
        """Losses above the minimum at the end of runs with drawn batches: of SVRG with a snapshot `every` so many steps, or SGD."""
        rng = np.random.default_rng(stream_seed(seed, "Monte Carlo of claim svrg-least-squares"))
        d = np.repeat(self.start[None], repetitions, 0)
        old, slope = d, np.zeros_like(d)
        done = steps = 0
        while done + batch * (2 if every else 1) + len(self.x) * bool(every and steps % every == 0) <= evaluations:
            if every and steps % every == 0:
                old, slope = d, d * self.curvature
                done += len(self.x)
            drawn = rng.integers(len(self.x), size=(repetitions, batch))
            x = self.x[drawn]
            if every:
                gradient = slope + np.einsum("rb,rbd->rd", np.einsum("rbd,rd->rb", x, d - old), x) / batch
            else:
                gradient = np.einsum("rb,rbd->rd", np.einsum("rbd,rd->rb", x, d) + self.residual[drawn], x) / batch
            d = d - rate * gradient
            done += batch * (2 if every else 1)
            steps += 1
        return d**2 @ self.curvature / 2


def tuned(problem: Problem, regime: Regime, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """The lowest expected losses of SGD and of SVRG at each budget, each over its whole grid."""
    rates = np.array(settings.rates) / problem.largest
    evaluations = [epochs * regime.examples for epochs in regime.epochs]
    steps = regime.examples // settings.batch
    sgd = problem.sgd(rates, settings.batch, evaluations).min(1)
    svrg = [problem.svrg(rates, settings.batch, evaluations, max(1, round(cycle * steps))).min(1) for cycle in settings.cycles]
    return sgd, np.min(svrg, axis=0)


@claims.register
class SVRGLeastSquares(Claim):
    """See the module."""

    name = "svrg-least-squares"
    paper = "Zhang, Wu, Faghri, Zhang and Ba, A non-asymptotic comparison of SVRG and SGD (2019, OpenReview HyleclHKvS), abstract"
    statement = (
        "On noisy least squares SVRG overtakes SGD after a few epochs if the model is underparameterized, and SGD is always"
        " ahead if it is overparameterized."
    )
    ground = (
        "Expected training loss above its minimum, exact by a recursion of moments and checked by Monte Carlo."
        " Underparameterized: more examples than features, noisy labels; overparameterized: twice as many features as examples,"
        " labels without noise. At every budget both methods take the best of one grid of constant learning rates, and SVRG also"
        " the best of its snapshot intervals; budgets count gradient evaluations of single examples, snapshots included. The"
        " recursion is our own: of the paper, the abstract could be read. The paper scale is five times larger in every"
        " dimension; the paper's sizes are unknown."
    )
    measures = {
        "under_last": "log10 of SVRG's loss over SGD's at the last budget, underparameterized",
        "under_first": "the same at the first budget, underparameterized",
        "over_least": "the same, overparameterized: the least of all budgets",
        "crossover": "epochs after which SVRG is ahead and stays so, underparameterized",
        "check": "Monte Carlo over the recursion, minus 1: mean of both losses after 6 epochs of the first underparameterized set",
    }
    rule = (
        "It replicates if the intervals of under_first and over_least lie above 0 and that of under_last below 0; it does not"
        " if one of the three lies on the other side; else it cannot be told, nor if the recursion and Monte Carlo differ by 5%"
        " (check)."
    )
    reading = (
        "With labels without noise the noise of SGD's gradients dies with the loss, and the snapshots buy nothing. Two limits:"
        " shorter snapshot intervals are better for SVRG in both regimes, and as they shrink to one step SVRG becomes gradient"
        " descent, which can win a first step on data sets of a few batches, so that the word always needs more than a few"
        " batches per epoch; and rates are constant, while a falling rate would move the crossover later."
    )
    seconds = 60
    scales = {
        "laptop": Settings(
            seeds=10,
            under=Regime(examples=200, features=20, noise=0.5, epochs=[2, 3, 4, 6, 8, 12, 18, 30]),
            over=Regime(examples=50, features=100, noise=0.0, epochs=[2, 3, 4, 6, 12, 25, 50, 100]),
            batch=5,
            rates=[2.0 ** (k / 2) for k in range(-18, 3)],
            cycles=[0.25, 0.5, 1, 2],
            repetitions=1000,
        ),
        "paper": Settings(
            seeds=10,
            under=Regime(examples=1000, features=100, noise=0.5, epochs=[2, 3, 4, 6, 8, 12, 18, 30]),
            over=Regime(examples=100, features=200, noise=0.0, epochs=[2, 3, 6, 12, 30, 60, 120, 300]),
            batch=50,
            rates=[2.0 ** (k / 2) for k in range(-18, 3)],
            cycles=[0.25, 0.5, 1, 2],
            repetitions=1000,
        ),
    }

    settings: Settings

    def run(self) -> Findings:
        settings = self.settings
        ratios: dict[str, np.ndarray] = {}
        panels: list[Panel] = []
        titles = {"under": "underparameterized, noisy labels", "over": "overparameterized, no noise"}
        with np.errstate(over="ignore", invalid="ignore"):
            for word, regime in (("under", settings.under), ("over", settings.over)):
                losses = np.array([tuned(Problem.draw(regime, seed), regime, settings) for seed in range(settings.seeds)])
                logs = np.log10(losses)
                ratios[word] = logs[:, 1] - logs[:, 0]
                curves = [
                    Curve.over_units(name, regime.epochs, logs[:, k], dashed=k == 1) for k, name in enumerate(("SGD", "SVRG"))
                ]
                size = f"{regime.examples} examples, {regime.features} features"
                panels.append(
                    Panel(
                        title=f"{titles[word]}: {size}",
                        x="epochs of gradient evaluations",
                        y="log10 of the loss above its minimum",
                        log_x=True,
                        curves=curves,
                    )
                )
        under, over = ratios["under"], ratios["over"]
        measures = {
            "under_last": Measure.of(under[:, -1]),
            "under_first": Measure.of(under[:, 0]),
            "over_least": Measure.of(over.min(1)),
            "crossover": Measure.of([crossover(row, settings.under.epochs) for row in under]),
            "check": self.check(),
        }
        return Findings(measures, panels, self.passes())

    def check(self) -> Measure:
        """Monte Carlo over the recursion, minus 1, at an eighth of one over the largest eigenvalue."""
        settings, regime = self.settings, self.settings.under
        problem = Problem.draw(regime, 0)
        rate = np.array([0.125 / problem.largest])
        batch, every = settings.batch, regime.examples // settings.batch
        evaluations = CHECKED * regime.examples
        exact = [problem.sgd(rate, batch, [evaluations]).item(), problem.svrg(rate, batch, [evaluations], every).item()]
        found = [problem.simulate(rate.item(), batch, evaluations, each, settings.repetitions, seed=0) for each in (None, every)]
        return Measure.of(np.mean([runs / loss for runs, loss in zip(found, exact, strict=True)], axis=0) - 1)

    def passes(self) -> int:
        """Steps of all recursions, and of the check."""
        settings = self.settings
        steps = sum(regime.epochs[-1] * regime.examples // settings.batch for regime in (settings.under, settings.over))
        check = CHECKED * settings.under.examples // settings.batch * settings.repetitions
        return round(settings.seeds * len(settings.rates) * steps * (1 + len(settings.cycles) / 3)) + 2 * check

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        if abs(measures["check"].value) >= 0.05:
            return CANNOT
        return all_of(above(measures["under_first"], 0), below(measures["under_last"], 0), above(measures["over_least"], 0))


def crossover(ratios: Any, epochs: Sequence[int]) -> float:
    """The first budget from which on all ratios are below 0; twice the last one if there is none."""
    ahead = np.flatnonzero(np.asarray(ratios) >= 0)
    first = 0 if len(ahead) == 0 else int(ahead[-1]) + 1
    return float(epochs[first]) if first < len(epochs) else 2.0 * epochs[-1]
