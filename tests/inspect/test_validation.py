"""The trial of the mechanistic verdict: its statistics by hand, its folds, and a real trial in small."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import SMALL_COMPOSITE, TINY
from scipy.stats import mannwhitneyu

from anchorbench import load_task
from anchorbench.cli.validation import run_trial
from anchorbench.inspect.mechanism import COMPOSITION, EXCEPTION, SURE, fit_logistic
from anchorbench.inspect.statistics import auroc, share, within_recipes
from anchorbench.inspect.validation import (
    QUICK_SEEDS,
    Observed,
    _grade_held_out,
    held_out,
    observe,
    quick_trial,
    recipe_features,
    sweeps,
)
from anchorbench.sweeps.run_folder import Run, read_run
from anchorbench.sweeps.runner import Sweep
from anchorbench.verdict import Share


def test_within_recipes_by_hand() -> None:
    """Recipe a, as (probability, composed): (.8, .9), (.3, .1), (.2, .5), (.9, .8); b: (.4, .9), (.4, .2).

    .9 over .1 and .5, .8 over .1 and .5: four hits; .5 over .1: a miss; .9 over .8: too close to ask. b: a tie, half a hit. Drawn
    twice from the two recipes, the share is 4 of 5, 4.5 of 6, or 1 of 2, with a quarter, half and a quarter of the draws.
    """
    found = within_recipes(
        np.array([0.8, 0.3, 0.2, 0.9, 0.4, 0.4]), np.array([0.9, 0.1, 0.5, 0.8, 0.9, 0.2]), ["a", "a", "a", "a", "b", "b"]
    )
    assert found == {"value": 4.5 / 6, "low": 0.5, "high": 0.8, "n": 6}


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    probability, positive = rng.random(60).round(1), rng.random(60) < 0.4
    found = auroc(probability, positive, [str(run) for run in range(60)])
    statistic = mannwhitneyu(probability[positive], probability[~positive]).statistic
    assert found["value"] == pytest.approx(statistic / (positive.sum() * (~positive).sum()))
    assert found["low"] < found["value"] < found["high"]
    assert found["n"] == 60


def test_the_interval_of_the_auroc_is_over_recipes() -> None:
    """Ten equal runs a recipe tell no more than one: two recipes of either kind, one of them on the wrong side.

    Of four recipes, draws that hold no right one of a kind, or no wrong one, reach 0 and 1: both ends of the interval.
    """
    probability, positive = np.repeat([0.9, 0.2, 0.1, 0.3], 10), np.repeat([True, True, False, False], 10)
    found = auroc(probability, positive, np.repeat(["a", "b", "c", "d"], 10).tolist())
    assert (found["value"], found["low"], found["high"]) == (0.75, 0.0, 1.0)
    by_run = auroc(probability, positive, [str(run) for run in range(40)])
    assert by_run["low"] > 0.5


def test_share_by_hand() -> None:
    """Wilson's interval of 9 of 10, as in every table of it."""
    found = share(9, 10)
    assert (found["value"], found["n"]) == (0.9, 10)
    assert (round(found["low"], 3), round(found["high"], 3)) == (0.596, 0.982)
    assert np.isnan(share(0, 0)["value"])


def test_all_seeds_of_a_recipe_are_held_out_together() -> None:
    """Each fold is fitted on the runs of the other recipes, and on no other; a fold of one kind stays at a half."""
    recipes = ["a", "b", "a", "c", "b", "c"]
    x = np.arange(6.0)
    positive = np.array([False, True, True, False, True, False])
    probability = held_out(("x",), {"x": x}, positive, recipes)
    for fold, rest in (([0, 2], [1, 3, 4, 5]), ([1, 4], [0, 2, 3, 5]), ([3, 5], [0, 1, 2, 4])):
        fitted = fit_logistic(("x",), {"x": x[rest]}, positive[rest])
        np.testing.assert_array_equal(probability[fold], fitted.probability({"x": x[fold]}))
    assert len(set(probability)) == 6, "else the folds could not be told apart"
    alone = held_out(("x",), {"x": x[:3]}, np.array([True, False, True]), ["a", "b", "a"])
    assert alone.tolist() == [0.5, 0.5, 0.5]


def test_the_early_verdict_is_by_weights_that_never_saw_the_recipe() -> None:
    """Were the features at every kept step those of the end, its AUROC would be that of the held-out verdict."""
    rng = np.random.default_rng(0)
    recipes = [TINY.override({"init.gamma": 0.4 + gamma / 10, "seed": seed}) for gamma in range(4) for seed in range(4)]
    infers = rng.random(16) < 0.5
    runs: list[Any] = []
    for number, (recipe, yes) in enumerate(zip(recipes, infers, strict=True)):
        shares = {"composes": Share(1, 2), "accuracy_iid": Share(1, 1), "inferential": rng.random()}
        said = {"composition": "inferential" if yes else "memorizing", "exception": None}
        runs.append(Mock(spec=Run, recipe=recipe, result=SimpleNamespace(run_id=str(number), **shares, **said)))
    end = Observed(runs, {name: rng.random(16) + infers / 5 for name in (*COMPOSITION, *EXCEPTION)}, np.ones(16))

    def read(some: Sequence[Run], step: int) -> Observed:
        return end.where(np.array([run in some for run in runs]))

    found = _grade_held_out(end, lambda line: None, read)
    assert [row["auroc"] for row in found["early"]] == [found["heldout_auroc"]] * 5
    seen = found["classifier"].composition.probability(end.features)
    assert auroc(seen, infers, end.recipes)["value"] > found["heldout_auroc"]["value"] + 0.1, "else the test could not fail"


def test_what_the_recipe_says(run: Run) -> None:
    found = {name: float(values[0]) for name, values in recipe_features([run]).items()}
    recipe = run.recipe
    assert found == {
        "gamma": recipe.init.gamma,
        "weight_decay": recipe.optimizer.weight_decay,
        "log_lr": pytest.approx(np.log10(recipe.optimizer.lr)),
        "post_norm": 0.0,
        "n_layer": float(recipe.model.n_layer),
        "steps": float(TINY.steps),
    }


def test_observed_in_any_order(finished_sweep: Path) -> None:
    """Runs are read side by side, and each gets its own features."""
    runs = [read_run(path) for path in sorted((finished_sweep / "runs").iterdir())]
    together, alone = observe(runs), observe(runs[2:3])
    for name, values in together.features.items():
        assert values[2] == pytest.approx(alone.features[name][0], abs=1e-5), name
    assert together.accuracy[2] == alone.accuracy[0]
    assert len(set(together.recipes)) == 2
    assert together.where(np.array([False, False, True, False])).runs == runs[2:3]


def test_the_sweeps_hold_whole_recipes_of_both_norms() -> None:
    full = sweeps(quick=False)
    runs = [recipe for sweep in full.values() for recipe in sweep.runs()]
    assert len(runs) == len({recipe.run_id for recipe in runs}) == 280
    asked = [recipe for recipe in runs if recipe.load_task().variant == "heldout-both"]
    assert len(asked) >= 200
    assert {recipe.model.norm for recipe in asked} == {"pre", "post"}
    assert {recipe.model.n_layer for recipe in asked} == {2, 3}
    quick = [recipe for sweep in sweeps(quick=True).values() for recipe in sweep.runs()]
    assert len(quick) == 4
    assert not {recipe.run_id for recipe in quick} & {recipe.run_id for recipe in runs}, "the shipped weights know them"


def test_a_quick_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The quick trial, on two runs that the shipped weights never saw: one that should infer, one not; planted circuits without
    noise (with noise: test_planted).
    """
    trial = quick_trial()
    trial = replace(
        trial,
        sweeps={name: Sweep(sweep.base, {**sweep.axes, "seed": QUICK_SEEDS[:1]}) for name, sweep in trial.sweeps.items()},
        task=load_task("composite", **SMALL_COMPOSITE),
        noises=(0.0,),
        null_steps=60,  # the models below FIT are undecided after any number
    )
    run_trial(trial, tmp_path, tmp_path / "found.json")
    assert "planted circuits" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["planted_accuracy"]["value"] == 1
    assert found["planted_wrong"]["value"] == 0
    assert found["null_undecided"]["value"] == 1
    assert found["heldout_runs"] == 2
    assert found["heldout_agreement"]["value"] == 1
    for row in found["planted"]:
        assert row["verdict"] in (row["truth"], "undecided")
        if row["noise"] == 0 and row["circuit"] != "key_to_anchors_lookup":
            assert row["verdict"] == row["truth"]
    assert found["weights"]["composition"]["features"] == list(COMPOSITION)
    assert 0.5 < SURE < 1
