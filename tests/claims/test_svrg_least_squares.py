"""SVRG on least squares: its recursions against the mean over all sequences of batches."""

import itertools

import numpy as np
import pytest
from claim_runs import require_findings, run

from anchorbench.claim import claims
from anchorbench.claims import svrg_least_squares


def enumerated(x: np.ndarray, y: np.ndarray, start: np.ndarray, rate: float, batch: int, steps: int, every: int | None) -> float:
    """The expected loss above its minimum, over every sequence of batches that there is."""
    batches = list(itertools.product(range(len(x)), repeat=batch))
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    total = 0.0
    for sequence in itertools.product(batches, repeat=steps):
        theta, old = start, start
        for step, chosen in enumerate(sequence):
            if every is not None and step % every == 0:
                old = theta
            gradient = np.mean([x[i] * (x[i] @ theta - y[i]) for i in chosen], axis=0)
            if every is not None:
                gradient = gradient - np.mean([x[i] * (x[i] @ old - y[i]) for i in chosen], axis=0)
                gradient = gradient + x.T @ (x @ old - y) / len(x)
            theta = theta - rate * gradient
        total += ((x @ theta - y) ** 2).sum() - ((x @ best - y) ** 2).sum()
    return total / len(batches) ** steps / (2 * len(x))


@pytest.mark.parametrize(("examples", "features", "batch"), [(3, 2, 1), (3, 2, 2), (2, 3, 1)])
def test_the_recursions_are_the_mean_over_all_sequences(examples: int, features: int, batch: int) -> None:
    rng = np.random.default_rng(examples)
    x, y, start = rng.standard_normal((examples, features)), rng.standard_normal(examples), rng.standard_normal(features)
    problem, rates = svrg_least_squares.Problem(x, y, start), np.array([0.1, 0.4])
    steps = 4 if batch == 1 else 3
    sgd = problem.sgd(rates, batch, [0, batch, steps * batch])
    svrg = problem.svrg(rates, batch, [steps * 2 * batch + 2 * examples], every=2)
    for k, rate in enumerate(rates):
        for row, taken in enumerate((0, 1, steps)):
            assert sgd[row, k] == pytest.approx(enumerated(x, y, start, rate, batch, taken, None), rel=1e-9)
        assert svrg[0, k] == pytest.approx(enumerated(x, y, start, rate, batch, steps, 2), rel=1e-9)


def test_evaluations_are_counted() -> None:
    """With 4 examples in batches of 1, a snapshot costs 4 gradients and a step of SVRG 2: 5 evaluations buy no step, 6 buy one."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 2)), rng.standard_normal(4)
    problem, rates = svrg_least_squares.Problem(x, y, np.zeros(2)), np.array([0.1])
    losses = problem.svrg(rates, 1, [5, 6, 7, 8, 13, 14], every=2)[:, 0]
    assert losses[0] == pytest.approx(enumerated(x, y, np.zeros(2), 0.1, 1, 0, 2))
    assert losses[1] == losses[2] == pytest.approx(enumerated(x, y, np.zeros(2), 0.1, 1, 1, 2))
    assert losses[3] == losses[4] == pytest.approx(enumerated(x, y, np.zeros(2), 0.1, 1, 2, 2))
    assert losses[5] == pytest.approx(enumerated(x, y, np.zeros(2), 0.1, 1, 3, 2))


def test_crossover_is_for_good() -> None:
    epochs = [2, 3, 6]
    assert svrg_least_squares.crossover([0.1, -1, -2], epochs) == 3
    assert svrg_least_squares.crossover([-1, 0.1, -2], epochs) == 6
    assert svrg_least_squares.crossover([-1, -1, -2], epochs) == 2
    assert svrg_least_squares.crossover([1, 1, 0], epochs) == 12


def test_svrg_least_squares() -> None:
    name = "svrg-least-squares"
    regimes = {word: claims[name].scales["laptop"].model_dump()[word] | {"epochs": [2, 4, 8, 12]} for word in ("under", "over")}
    found = run(name, seeds=2, rates=[2.0**k for k in range(-7, 1)], cycles=[0.5, 1], repetitions=300, **regimes)
    require_findings(name, found)
    assert abs(found.measures["check"].value) < 0.1
    assert found.measures["under_last"].value < -1.5
    assert found.measures["under_first"].value > 0.3
    assert found.measures["over_least"].value > 0.1
