"""What every claim promises: complete texts, a rule that judges as it says, and settings that make sense."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from anchorbench.claim import CANNOT, DOES_NOT, REPLICATES, SCALES, Measure, above, all_of, below, claims, power

NAMES = sorted(claims.all)
GOOD: dict[str, dict[str, float]] = {
    "adashift": {"drift": -2, "drift_adam": 2, "drift_slower": 1, "end": -0.95, "end_adam": 0.9, "end_amsgrad": 0},
    "chain-matching": {"by_gamma": -0.5, "by_norm": -0.5, "fit": 1},
    "classification-learned": {"accuracy": 0.99, "fit": 1.0},
    "composition-learned": {"accuracy": 0.99, "held_out": 0.97, "fit": 1.0},
    "condensation-small-init": {"fewer_queries": 2.0, "fewer_first": 2.0, "fewer_second": 2.0, "fit": 0.99},
    "condensed-weights": {"composing": 0.6, "directions": 1, "ranks": 1, "fit": 1},
    "conflict-phases": {"effect": 0.8, "trend": 0, "fit": 1},
    "decay-window": {"window": 0.8, "decayed": 0.8, "fit": 1},
    "dropout-regularization": {
        "identity": 0,
        "condensed_r1": -2,
        "condensed": -1.5,
        "flatness": -1,
        "flatness_slice": -4,
        "alignment": 0.9,
        "unmatched": 0,
    },
    "embedding-principle": {
        "kept": 1,
        "exact": 1,
        "saddles": 1,
        "critical": -14,
        "gradient": -15,
        "gradient_gpt": -15,
        "gap": 6,
        "converged": 0.9,
    },
    "exceptions-slow": {"one": 1, "all": 1, "reached": 1},
    "fractal-chebyshev": {
        "residual": 0,
        "growth_fractal": -0.1,
        "growth": 3,
        "growth_sorted": 20,
        "acceleration": 3,
        "noise_random": 1,
    },
    "frequency-principle": {"delay": 0.5, "fit": 0.99},
    "grafting": {"over_sgd": 0.8, "to_adam": 0.0},
    "identity-ablation": {"one": 0.1, "shifted": 0.99, "narrow": 0.99, "two": 1.0},
    "identity-sample-size": {"learned": 0.99, "learned_few": 0.1, "memorized": 1.0},
    "k-decay": {"gain": 0.05, "gain_higher": 0.05, "gain_plateau": 0.05},
    "memory-bias": {"bias": 1, "learned": 1},
    "multi-anchor-masked": {"masked_ten": 0.9, "masked_two": 0.0, "fit_ten": 0.99, "fit_two": 0.99},
    "phase-diagram": {"by_gamma": 0.8, "by_decay": 0.8, "fit": 1},
    "rate-and-decay": {"by_rate": 0.5, "by_decay": 0.5, "condensed_rate": 1, "condensed_decay": 1, "fit": 1},
    "rate-without-scale": {"effect": 0, "effect_plain": 0.4, "effect_same": 0.4, "fit": 0.9},
    "reading-comprehension-learned": {"accuracy": 0.99, "fit": 1.0},
    "recitation-forward-first": {"gap": 0.2, "forward": 0.99},
    "scale-invariance": {
        "invariance": -13,
        "orthogonality": -13,
        "lost_small": 0,
        "lost_large": 0,
        "lost_plain": 0.5,
        "accuracy": 0.9,
    },
    "sparse-variables": {"exponent": 0.3, "difference": 0.5, "unlearned": 0},
    "statistical-calibrated": {"off": 0.01, "off_next": 0.01, "off_all": 0.01, "mass": 0.99},
    "svrg-least-squares": {"under_first": 0.5, "under_last": -5, "over_least": 0.2, "check": 0.01},
    "synonym-augmentation": {"composed": 0.99, "over_doubled": 0.8, "over_nothing": 0.9, "fit": 0.95},
    "two-circuits": {"carry": 0.6, "merge": 0.6, "blocks": 0.6, "fit": 1},
    "working-memory-learned": {"accuracy": 0.99, "fit": 1.0},
}
"""What the measures that decide have to be for the claim to replicate; a claim that is not here fails a test."""
ONLY_UNDECIDED = {
    ("chain-matching", "fit"),
    ("classification-learned", "fit"),
    ("composition-learned", "fit"),
    ("condensation-small-init", "fit"),
    ("condensed-weights", "fit"),
    ("conflict-phases", "fit"),
    ("conflict-phases", "trend"),
    ("decay-window", "fit"),
    ("dropout-regularization", "unmatched"),
    ("embedding-principle", "converged"),
    ("embedding-principle", "gap"),
    ("exceptions-slow", "reached"),
    ("frequency-principle", "fit"),
    ("identity-ablation", "two"),
    ("identity-sample-size", "memorized"),
    ("memory-bias", "learned"),
    ("multi-anchor-masked", "fit_ten"),
    ("multi-anchor-masked", "fit_two"),
    ("phase-diagram", "fit"),
    ("rate-and-decay", "fit"),
    ("rate-without-scale", "effect_plain"),
    ("rate-without-scale", "effect_same"),
    ("rate-without-scale", "fit"),
    ("reading-comprehension-learned", "fit"),
    ("recitation-forward-first", "forward"),
    ("scale-invariance", "accuracy"),
    ("sparse-variables", "unlearned"),
    ("statistical-calibrated", "mass"),
    ("svrg-least-squares", "check"),
    ("synonym-augmentation", "fit"),
    ("two-circuits", "fit"),
    ("working-memory-learned", "fit"),
}
"""Measures that can only make a run undecided."""


def around(value: float, half: float = 1e-6) -> Measure:
    return Measure(value=value, low=value - half, high=value + half, n=8)


def measured(name: str, **changed: Measure) -> dict[str, Measure]:
    """Measures with which the claim replicates, but for those that are changed."""
    return {each: around(GOOD[name].get(each, 0.0)) for each in claims[name].measures} | changed


@pytest.mark.parametrize("name", NAMES)
def test_the_texts_are_complete(name: str) -> None:
    claim = claims[name]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    for text in (claim.paper, claim.statement, claim.ground, claim.rule, *claim.measures.values()):
        assert 15 < len(text) <= 2000
        assert text == " ".join(text.split())
    assert re.search(r"\d{4}", claim.paper), "a year or an identifier"
    assert re.fullmatch(r"[^.]+(\.\d[^.]*)*\.", claim.statement), "one sentence"
    assert "It replicates if" in claim.rule
    assert "cannot be told" in claim.rule
    assert 0 < claim.seconds <= 1000, "about a quarter of an hour on one core"
    assert list(claim.scales) == list(SCALES)
    for settings in claim.scales.values():
        again = type(settings).model_validate(json.loads(settings.model_dump_json()))
        assert again == settings, "settings survive a file"
    assert (claim.__doc__ or "").strip()


class Asked(dict[str, Measure]):
    """Notes which measures are looked at."""

    def __init__(self, measures: Mapping[str, Measure]) -> None:
        super().__init__(measures)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Measure:
        self.names.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_rule_judges_as_it_says(name: str) -> None:
    claim = claims[name]
    asked = Asked(measured(name))
    assert claim.judge(asked) == REPLICATES
    assert asked.names == GOOD[name].keys()
    for measure in asked.names:
        assert measure in claim.rule, "what decides is named in the rule"
        wide = Measure(value=GOOD[name][measure], low=-100, high=100, n=8)
        opposite = [claim.judge(measured(name, **{measure: around(value)})) for value in (-50.0, 50.0)]
        if (name, measure) in ONLY_UNDECIDED:
            assert set(opposite) <= {CANNOT, REPLICATES}
            assert CANNOT in opposite
        else:
            assert claim.judge(measured(name, **{measure: wide})) == CANNOT
            assert DOES_NOT in opposite
    for measure in claim.measures.keys() - asked.names:
        assert claim.judge(measured(name, **{measure: around(-50)})) == REPLICATES


def test_intervals_are_compared_as_a_whole() -> None:
    inside = Measure(value=0.5, low=-1, high=1, n=5)
    assert [above(around(1), 0), above(around(-1), 0), above(inside, 0)] == [REPLICATES, DOES_NOT, CANNOT]
    assert [below(around(-1), 0), below(around(1), 0), below(inside, 0)] == [REPLICATES, DOES_NOT, CANNOT]
    assert all_of(REPLICATES, REPLICATES) == REPLICATES
    assert all_of(REPLICATES, CANNOT) == CANNOT
    assert all_of(DOES_NOT, CANNOT) == DOES_NOT


def test_a_mean_has_students_interval() -> None:
    found = Measure.of([1.0, 2.0, 3.0, 4.0])  # sd 1.29099, t(3) 3.18245
    assert (found.value, found.n) == (2.5, 4)
    assert found.high - found.value == pytest.approx(3.182446 * 1.290994 / 2, rel=1e-5)


def test_power_is_what_trials_find() -> None:
    rng, n = np.random.default_rng(0), 8
    draws = rng.standard_normal((20_000, n)) + power(n)
    error = draws.std(1, ddof=1) / np.sqrt(n)
    assert (draws.mean(1) - 2.364624 * error > 0).mean() == pytest.approx(0.8, abs=0.01)
    assert power(2) > power(8) > power(100) > 0.2


@pytest.mark.parametrize(
    ("name", "changed", "sentence"),
    [
        ("svrg-least-squares", {"batch": 7}, "batch is 7; allowed: a divisor of examples, 200"),
        ("svrg-least-squares", {"seeds": 1}, "greater than or equal to 2"),
        ("fractal-chebyshev", {"steps": 48}, "is 48; allowed: a power of two"),
        ("sparse-variables", {"bits": [32, 16]}, "allowed: numbers that grow"),
        ("k-decay", {"k": 1.0}, "greater than 1"),
        ("adashift", {"share": 1.0}, "less than 1"),
        ("dropout-regularization", {"rate": 1.0}, "less than 1"),
        (
            "embedding-principle",
            {"drawn": {"inputs": 1, "neurons": 2, "examples": 7}},
            "examples are 7; allowed: more than the net's 7 parameters",
        ),
        ("embedding-principle", {"alphas": [0.3]}, "allowed: with 0.5 and 2, for equal halves"),
        ("scale-invariance", {"scales": [0.1, 2, 10]}, "allowed: factors that grow, from below 1 to above it by way of 1"),
        ("rate-without-scale", {"gammas": [0.5, 0.3]}, "allowed: rates that grow"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, changed: dict[str, Any], sentence: str) -> None:
    settings = claims[name].scales["laptop"]
    with pytest.raises(ValueError, match=re.escape(sentence)):
        type(settings).model_validate(settings.model_dump() | changed)
