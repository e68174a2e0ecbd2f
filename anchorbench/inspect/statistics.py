"""How well probabilities agree with behaviour, over runs of several recipes: figures with 95% intervals."""

import itertools
from collections.abc import Sequence

import numpy as np

from anchorbench.intervals import wilson

RESAMPLES = 2000
"""Bootstrap resamples of the recipes."""


def within_recipes(probability: np.ndarray, share: np.ndarray, recipes: Sequence[str]) -> dict[str, float]:
    """Over pairs of runs of one recipe whose shares of composed answers differ by more than 0.2: how often the run with the
    larger share has the larger probability.

    This is the AUROC within recipes, where nothing in the recipe can help; ties count as half. The 95% interval is a
    bootstrap over recipes, since the pairs of one recipe share runs. n is the number of pairs.
    """
    hits, pairs = np.zeros((2, len(names := list(dict.fromkeys(recipes)))))
    for number, recipe in enumerate(names):
        members = [run for run, other in enumerate(recipes) if other == recipe]
        for a, b in itertools.permutations(members, 2):
            if share[a] > share[b] + 0.2:
                pairs[number] += 1
                hits[number] += 1.0 if probability[a] > probability[b] else 0.5 * (probability[a] == probability[b])
    drawn = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    of_draws = pairs[drawn].sum(1)
    low, high = np.percentile(hits[drawn].sum(1)[of_draws > 0] / of_draws[of_draws > 0], [2.5, 97.5])
    return {"value": float(hits.sum() / pairs.sum()), "low": float(low), "high": float(high), "n": int(pairs.sum())}


def auroc(probability: np.ndarray, positive: np.ndarray, recipes: Sequence[str]) -> dict[str, float]:
    """Area under the ROC curve, with a 95% bootstrap interval over recipes, since the seeds of one recipe are similar."""
    names = list(dict.fromkeys(recipes))
    member = np.array([[other == recipe for recipe in names] for other in recipes], float)
    yes, no = probability[positive, None], probability[None, ~positive]
    # [recipe, recipe]: number of (positive, negative) pairs of runs in the right order, and of all such pairs.
    hits = member[positive].T @ ((yes > no) + 0.5 * (yes == no)) @ member[~positive]
    pairs = np.outer(member[positive].sum(0), member[~positive].sum(0))
    drawn = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    times = (drawn[:, :, None] == np.arange(len(names))).sum(1)
    right, of = (np.einsum("da,ab,db->d", times, table, times) for table in (hits, pairs))
    low, high = np.percentile(right[of > 0] / of[of > 0], [2.5, 97.5])
    return {"value": float(hits.sum() / pairs.sum()), "low": float(low), "high": float(high), "n": len(positive)}


def share(hits: int, n: int) -> dict[str, float]:
    """A share with its 95% Wilson interval."""
    if n == 0:
        return {"value": float("nan"), "low": 0.0, "high": 1.0, "n": 0}
    low, high = wilson(hits, n)
    return {"value": hits / n, "low": low, "high": high, "n": n}
