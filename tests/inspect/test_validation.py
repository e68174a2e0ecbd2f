"""The validation of the forecast: its statistics by hand, its rules, and a real trial in small."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL_COMPOSITE, Cli
from scipy.stats import spearmanr

from anchorbench import load_task
from anchorbench.cli.validation import run_trial, worst
from anchorbench.inspect.statistics import coverage, error, other_seeds, rank_within, share, skill
from anchorbench.inspect.validation import (
    CRADLE,
    FIRST_SEED,
    WITHOUT_RULE,
    fooled,
    grade,
    quick_trial,
    read_runs,
    sweeps,
)
from anchorbench.sweeps.run_folder import read_run
from anchorbench.sweeps.runner import Sweep

FORECAST, COMPOSED = np.array([0.1, 0.4, 0.9, 0.5]), np.array([0.2, 0.4, 0.7, 0.9])
RECIPES = ["a", "a", "b", "b"]


def test_error_and_coverage_by_hand() -> None:
    """Errors .1, 0, .2, .4; resamples of the two recipes give .05, .175 or .3."""
    found = error(FORECAST, COMPOSED, RECIPES)
    assert found == pytest.approx({"value": 0.175, "low": 0.05, "high": 0.3, "n": 4})
    inside = coverage(FORECAST - 0.25, FORECAST + 0.25, COMPOSED, RECIPES)
    assert inside == pytest.approx({"value": 0.75, "low": 0.5, "high": 1.0, "n": 4})


def test_skill_by_hand() -> None:
    """Other seeds say .4, .2, .9, .7: squared errors .04, .04, .04, .04 against the forecast's .01, 0, .04, .16."""
    guess = other_seeds(COMPOSED, RECIPES)
    np.testing.assert_allclose(guess, [0.4, 0.2, 0.9, 0.7])
    for forecast, value in ((FORECAST, 1 - 0.21 / 0.16), (COMPOSED, 1), (guess, 0)):
        found = skill(forecast, guess, COMPOSED, RECIPES)
        assert found is not None
        assert found["value"] == pytest.approx(value)
    assert skill(FORECAST, COMPOSED + 0.001, COMPOSED, RECIPES) is None
    assert np.isnan(other_seeds(COMPOSED, ["a", "b", "b", "b"])[0])


def test_ranks_are_compared_within_a_recipe() -> None:
    """The larger share of recipe b says nothing; recipe c has too few runs."""
    rng = np.random.default_rng(0)
    forecast, composed = rng.random(14), np.concatenate([rng.random(6), 5 + rng.random(6), [0.0, 1.0]])
    recipes = ["a"] * 6 + ["b"] * 6 + ["c"] * 2
    found = rank_within(forecast, composed, recipes)
    assert found is not None
    within = [spearmanr(forecast[part], composed[part])[0] for part in (slice(0, 6), slice(6, 12))]
    assert (found["value"], found["n"]) == (pytest.approx(np.mean(within)), 2)
    assert rank_within(forecast[:4], composed[:4], ["a"] * 4) is None


def test_share_by_hand() -> None:
    """Wilson's interval of 9 of 10, as in every table of it."""
    found = share(9, 10)
    assert (found["value"], found["n"]) == (0.9, 10)
    assert (round(found["low"], 3), round(found["high"], 3)) == (0.596, 0.982)
    assert np.isnan(share(0, 0)["value"])


def row(composed: float, forecast: float | None, *, half: float = 0.1, fits: bool = True, recipe: str = "a") -> dict[str, Any]:
    interval = {"low": None, "high": None} if forecast is None else {"low": forecast - half, "high": forecast + half}
    return {"composed": composed, "forecast": forecast, "fits": fits, "recipe": recipe, **interval}


def test_only_forecasts_for_fitted_models_are_graded() -> None:
    found = grade([row(0.5, 0.45), row(0.9, 0.6), row(0.2, None), row(0.0, 1.0, fits=False)])
    assert (found["fitted"], found["abstained"]) == (3, 1)
    assert found["composed"] == pytest.approx(0.7)
    assert found["coverage"]["value"] == 0.5
    assert found["error"]["value"] == pytest.approx(0.175)
    assert found["guess_error"]["value"] == pytest.approx(0.4)
    assert grade([row(0.2, None)]) == {"fitted": 1, "abstained": 1}
    alone = grade([row(0.5, 0.45)])
    assert (alone["skill"], alone["guess_error"]) == (None, None)


def test_what_counts_as_fooled() -> None:
    """More than a quarter, surely: a small forecast, one whose interval contains the truth, and an abstention do not."""
    found = fooled([row(0.0, 0.9), row(0.0, 0.2), row(0.0, 0.3, half=0.4), row(0.0, None), row(0.0, 0.9, fits=False)])
    assert (found["fitted"], found["abstained"], found["largest"]) == (4, 1, 0.9)
    assert (found["fooled"]["value"], found["fooled"]["n"]) == (pytest.approx(1 / 3), 3)


def test_the_worst_cases_are_those_of_graded_runs() -> None:
    rows = [row(0.5, 0.45), row(0.9, 0.6), row(0.2, None), row(0.0, 1.0, fits=False)]
    assert worst(rows) == [rows[1], rows[0]]


def test_the_sweeps_hold_out_every_kind() -> None:
    full = sweeps()
    runs = {name: sweep.runs() for name, sweep in full.items()}
    ids = [recipe.run_id for recipes in runs.values() for recipe in recipes]
    assert len(ids) == len(set(ids))
    graded = [recipe for name, recipes in runs.items() if name not in (*CRADLE, *WITHOUT_RULE) for recipe in recipes]
    assert len(graded) > 250
    for field in ("norm", "n_layer", "d_model", "n_head", "activation"):
        assert {getattr(recipe.model, field) for recipe in graded} > {getattr(recipe.model, field) for recipe in runs["cradle"]}
    assert {(r.model.norm, r.model.n_layer, r.model.d_model, r.task) for name in CRADLE for r in runs[name]} == {
        ("pre", 2, 32, "composite")
    }
    assert len({recipe.task for recipe in graded}) >= 7
    for name in WITHOUT_RULE:
        assert {recipe.load_task().config.model_dump()["trained_as"] for recipe in runs[name]} <= {"table", "difference"}
    quick = [recipe for sweep in quick_trial().sweeps.values() for recipe in sweep.runs()]
    assert len(quick) == 4
    assert not {recipe.run_id for recipe in quick} & set(ids)


def test_runs_are_read_in_any_order(finished_sweep: Path) -> None:
    """Runs of one kind are read side by side, and each gets its own forecast."""
    runs = [read_run(path) for path in sorted((finished_sweep / "runs").iterdir())]
    together, alone = read_runs("x", runs), read_runs("x", runs[2:3])
    assert sorted(read.label for read in together) == sorted(run.result.run_id for run in runs)
    [same] = [read for read in together if read.label == alone[0].label]
    assert same.composed == alone[0].composed
    assert same.forecast.accuracy == alone[0].forecast.accuracy
    assert same.forecast.fidelity == pytest.approx(alone[0].forecast.fidelity, abs=0.01)
    assert len({read.recipe for read in together}) == 2


def test_a_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On two tiny runs, and planted circuits without noise; no foreign model is trained."""
    base = quick_trial().sweeps["pre"].base.override({"steps": 60})
    sweep = Sweep(base, {"init.gamma": (0.5,), "seed": (FIRST_SEED, FIRST_SEED + 1)})
    trial = replace(quick_trial(), sweeps={"pre": sweep}, task=load_task("composite", **SMALL_COMPOSITE), noises=(0.0,))
    run_trial(trial, tmp_path, tmp_path / "found.json")
    assert "planted circuits: 1.00 of" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["all"] == {"fitted": 0, "abstained": 0}
    assert [row["name"] for row in found["rows"]] == ["cannot be told"] * 2
    names = {row["circuit"]: row["name"] for row in found["planted"] if row["norm"] == "pre"}
    assert names["key_to_anchors"] == "inferential"
    assert names["pair_lookup"] == "memorizing"


def test_too_few_runs_to_fit_widths(cli: Cli, finished_sweep: Path, tmp_path: Path) -> None:
    shown = cli("probe", "fit", finished_sweep, "--out", tmp_path / "forecast.json")
    assert shown.code == 2
    assert "0 runs have a forecast; allowed: at least 10" in shown.err
    assert not (tmp_path / "forecast.json").exists()
