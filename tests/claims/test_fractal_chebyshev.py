"""Fractal Chebyshev: the paper's order, steps by hand, and descent that is multiplied out."""

import numpy as np
import pytest
from claim_runs import require_findings, run

from anchorbench.claim import REPLICATES, claims
from anchorbench.claims import fractal_chebyshev


def test_the_fractal_order_is_the_papers() -> None:
    assert (fractal_chebyshev.fractal(8) + 1).tolist() == [1, 8, 4, 5, 2, 7, 3, 6]
    assert sorted(fractal_chebyshev.fractal(64).tolist()) == list(range(64))


def test_two_steps_by_hand() -> None:
    """Curvatures 1/3 to 1: nodes 2/3 -+ sqrt(2)/6, worst error 1 / T_2(2) = 1/7."""
    nodes = fractal_chebyshev.nodes(2, 3.0)
    np.testing.assert_allclose(nodes, [2 / 3 - np.sqrt(2) / 6, 2 / 3 + np.sqrt(2) / 6])
    assert 10 ** fractal_chebyshev.theory(2, 3.0) == pytest.approx(1 / 7)
    descent = fractal_chebyshev.Descent(1 / nodes, np.linspace(1 / 3, 1, 1001))
    assert 10**descent.residual == pytest.approx(1 / 7)


def test_descent_is_what_gradient_descent_does() -> None:
    """Growth by multiplying out, and noise by drawing it."""
    rng, noise = np.random.default_rng(0), 0.05
    rates = (1 / fractal_chebyshev.nodes(8, 20.0))[rng.permutation(8)]
    curvatures = np.linspace(0.05, 1, 7)
    descent = fractal_chebyshev.Descent(rates, curvatures)
    worst = max(abs(np.prod([1 - rates[t] * c for t in steps])) for c in curvatures for steps in [*starts(8), *ends(8)])
    assert 10**descent.growth == pytest.approx(worst)
    x = np.ones((40_000, 7))
    for rate in rates:
        x = x - rate * (curvatures * x + noise * rng.standard_normal(x.shape))
    assert 10 ** descent.noisy(noise) == pytest.approx(np.sqrt((x**2).mean()), rel=0.01)


def starts(n: int) -> list[range]:
    return [range(k) for k in range(n + 1)]


def ends(n: int) -> list[range]:
    return [range(k, n) for k in range(n + 1)]


def test_fractal_chebyshev() -> None:
    found = run("fractal-chebyshev")
    require_findings("fractal-chebyshev", found)
    assert found.measures["residual"].value == pytest.approx(0, abs=1e-9)
    assert 10 ** (found.measures["growth_fractal"].value + 2) == pytest.approx(97.5, abs=0.1)
    assert claims["fractal-chebyshev"].judge(found.measures) == REPLICATES
