"""k-decay: its controls have its mean rate, and the recipe is trained with these rates."""

import numpy as np
import pytest
from claim_runs import require_findings, run

from anchorbench.claim import claims
from anchorbench.claims import k_decay
from anchorbench.recipe import parse_recipe
from anchorbench.train.rates import learning_rate


def test_the_controls_have_the_mean_rate_of_k_decay() -> None:
    done = (np.arange(100_000) + 0.5) / 100_000
    for k in (1.5, 3.0, 5.0):
        rates = k_decay.arms(done, k)
        assert rates["straight line"].mean() == pytest.approx(0.5)
        for arm in ("k-decay", "higher peak", "plateau"):
            assert rates[arm].mean() == pytest.approx(k / (k + 1))
    assert k_decay.arms(np.array([0.5]), 3.0)["k-decay"] == pytest.approx(0.875)


@pytest.mark.parametrize("steps", [7, 1000, 1500])
def test_the_recipe_is_trained_with_these_rates(steps: int) -> None:
    base = parse_recipe({"optimizer": {"lr": 0.5, "warmup": 0}, "steps": steps})
    rates = k_decay.arms(np.arange(steps) / steps, 3.0)["k-decay"]
    optimizer = k_decay.with_rates(base, rates).optimizer
    every = -(-steps // 1000)
    for step in range(1, steps + 1, 3):
        assert learning_rate(optimizer, step, steps) == pytest.approx(0.5 * rates[(step - 1) // every * every])


def test_k_decay() -> None:
    recipe = claims["k-decay"].scales["laptop"].model_dump()["recipe"] | {"steps": 20, "batch": 8}
    found = run("k-decay", seeds=2, recipe=recipe, looks=4)
    require_findings("k-decay", found)
    assert [len(curve.x) for curve in found.panels[0].curves] == [4] * 4
    assert found.passes == 20 * 2 * 4
