"""How well forecast shares agree with composed ones, over runs of several recipes: figures with 95% intervals.

Intervals are bootstraps over recipes, since the seeds of one recipe are alike.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from anchorbench.intervals import wilson

RESAMPLES = 2000
"""Bootstrap resamples of the recipes."""
CLOSE = 0.01
RANKED = 5
"""Least number of runs of a recipe whose ranks are compared."""
Figure = dict[str, float]
"""`value`, `low`, `high` and `n`."""
Numbers = Float[np.ndarray, " n"]


def error(forecast: Numbers, composed: Numbers, recipes: Sequence[str]) -> Figure:
    """Mean absolute error."""
    return _over_recipes(np.abs(forecast - composed), np.ones(len(composed)), recipes, lambda ratio: ratio)


def coverage(low: Numbers, high: Numbers, composed: Numbers, recipes: Sequence[str]) -> Figure:
    """How often the composed share lies in the interval."""
    return _over_recipes(((low <= composed) & (composed <= high)) * 1.0, np.ones(len(composed)), recipes, lambda ratio: ratio)


def skill(forecast: Numbers, guess: Numbers, composed: Numbers, recipes: Sequence[str]) -> Figure | None:
    """1 - the forecast's squared error relative to that of `guess`: 1 is perfect, 0 no better than the guess.

    None where the guess errs by less than 0.01 in the mean square: there is nothing to gain.
    """
    if np.mean((guess - composed) ** 2) < CLOSE**2:
        return None
    return _over_recipes((forecast - composed) ** 2, (guess - composed) ** 2, recipes, lambda ratio: 1 - ratio)


def other_seeds(composed: Numbers, recipes: Sequence[str]) -> Numbers:
    """What is guessed from the recipe: the mean share of its other runs; NaN if there is none."""
    guess = np.full(len(composed), np.nan)
    for recipe in dict.fromkeys(recipes):
        of_recipe = np.array([other == recipe for other in recipes])
        n = of_recipe.sum()
        if n > 1:
            guess[of_recipe] = (composed[of_recipe].sum() - composed[of_recipe]) / (n - 1)
    return guess


def rank_within(forecast: Numbers, composed: Numbers, recipes: Sequence[str]) -> Figure | None:
    """Spearman's correlation within a recipe, where nothing in the recipe can help, averaged over recipes; n is their number.

    None if no recipe has `RANKED` runs that differ.
    """
    from scipy.stats import spearmanr

    found: list[float] = []
    for recipe in dict.fromkeys(recipes):
        of_recipe = np.array([other == recipe for other in recipes])
        pair = forecast[of_recipe], composed[of_recipe]
        if of_recipe.sum() >= RANKED and min(np.ptp(each) for each in pair) > 0:
            found.append(float(spearmanr(*pair)[0]))  # pyright: ignore[reportArgumentType]
    if not found:
        return None
    return _over_recipes(np.array(found), np.ones(len(found)), [str(number) for number in range(len(found))], lambda ratio: ratio)


def share(hits: int, n: int) -> Figure:
    """A share with its 95% Wilson interval."""
    if n == 0:
        return {"value": float("nan"), "low": 0.0, "high": 1.0, "n": 0}
    low, high = wilson(hits, n)
    return {"value": hits / n, "low": low, "high": high, "n": n}


def _over_recipes(above: Numbers, below: Numbers, recipes: Sequence[str], form: Callable[[np.ndarray], np.ndarray]) -> Figure:
    """`form` of sum(above) / sum(below), and its bootstrap interval over recipes."""
    names = list(dict.fromkeys(recipes))
    member = np.array([[other == recipe for other in recipes] for recipe in names], float)
    sums = np.stack([member @ above, member @ below])
    drawn = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    of_draws = sums[:, drawn].sum(2)
    low, high = np.percentile(form(of_draws[0] / np.maximum(of_draws[1], 1e-12)), [2.5, 97.5])
    value = form(np.array(above.sum() / max(below.sum(), 1e-12)))
    return {"value": float(value), "low": float(low), "high": float(high), "n": len(above)}
