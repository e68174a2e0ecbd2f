"""The claims: texts, rules, and the quick ones really run; figures against hand-worked cases and slow oracles."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import references
import torch
from torch import Tensor

from anchorbench.claim import CANNOT, DOES_NOT, REPLICATES, SCALES, Findings, Measure, above, all_of, below, claims, power
from anchorbench.claims import (
    adashift,
    dropout_regularization,
    embedding_principle,
    fractal_chebyshev,
    grafting,
    k_decay,
    scale_invariance,
    sparse_variables,
    svrg_least_squares,
    trained,
)
from anchorbench.parts import OptimizerConfig, optimizers
from anchorbench.recipe import parse_recipe
from anchorbench.train.rates import learning_rate
from anchorbench.train.seams import Layout, Optimizer
from anchorbench.train.stack import Stack

NAMES = sorted(claims.all)
GOOD: dict[str, dict[str, float]] = {
    "adashift": {"drift": -2, "drift_adam": 2, "drift_slower": 1, "end": -0.95, "end_adam": 0.9, "end_amsgrad": 0},
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
    "fractal-chebyshev": {
        "residual": 0,
        "growth_fractal": -0.1,
        "growth": 3,
        "growth_sorted": 20,
        "acceleration": 3,
        "noise_random": 1,
    },
    "grafting": {"over_sgd": 0.8, "to_adam": 0.0},
    "k-decay": {"gain": 0.05, "gain_higher": 0.05, "gain_plateau": 0.05},
    "rate-without-scale": {"effect": 0, "effect_plain": 0.4, "effect_same": 0.4, "fit": 0.9},
    "scale-invariance": {
        "invariance": -13,
        "orthogonality": -13,
        "lost_small": 0,
        "lost_large": 0,
        "lost_plain": 0.5,
        "accuracy": 0.9,
    },
    "sparse-variables": {"exponent": 0.3, "difference": 0.5, "unlearned": 0},
    "svrg-least-squares": {"under_first": 0.5, "under_last": -5, "over_least": 0.2, "check": 0.01},
}
"""What the measures that decide have to be for the claim to replicate; a claim that is not here fails a test."""
ONLY_UNDECIDED = {
    ("dropout-regularization", "unmatched"),
    ("embedding-principle", "converged"),
    ("embedding-principle", "gap"),
    ("rate-without-scale", "effect_plain"),
    ("rate-without-scale", "effect_same"),
    ("rate-without-scale", "fit"),
    ("scale-invariance", "accuracy"),
    ("sparse-variables", "unlearned"),
    ("svrg-least-squares", "check"),
}
"""Measures that can only make a run undecided."""


def around(value: float, half: float = 1e-6) -> Measure:
    return Measure(value=value, low=value - half, high=value + half, n=8)


def measured(name: str, **changed: Measure) -> dict[str, Measure]:
    """Measures with which the claim replicates, but for those that are changed."""
    return {each: around(GOOD[name].get(each, 0.0)) for each in claims[name].measures} | changed


# --- All claims


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
    assert 0 < claim.seconds <= 600, "five minutes on two cores"
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


def run(name: str, **changed: Any) -> Findings:
    """The claim at laptop scale, with fewer or smaller settings."""
    claim = claims[name]
    settings = claim.scales["laptop"]
    return claim(type(settings).model_validate(settings.model_dump() | changed)).run()


def require_findings(name: str, findings: Findings) -> None:
    assert list(claims[name].measures) == [each for each in claims[name].measures if each in findings.measures]
    assert findings.measures.keys() == claims[name].measures.keys()
    assert 1 <= len(findings.panels) <= 3
    assert findings.passes > 0


# --- SVRG on least squares


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
    """Of 4 examples, with batches of 1: a snapshot takes 4 and a step of SVRG 2, so that 5 evaluations buy nothing, 6 one step."""
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


# --- Fractal Chebyshev


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


# --- Sparse variables


def test_a_sample_determines_the_function_if_no_other_set_fits() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for m in (4, 8, 12, 16, 24):
        for _ in range(20):
            sample = sparse_variables.draw(rng, np.array([1, 4, 6]), 8, m)
            fitting = [s for s in itertools.combinations(range(8), 3) if (sample.bits[:, s].all(1) == sample.label).all()]
            seen.add(len(fitting) == 1)
            assert sparse_variables.determined(sample, 3) == (len(fitting) == 1)
    assert seen == {True, False}


def test_labels_are_balanced() -> None:
    sample = sparse_variables.draw(np.random.default_rng(0), np.array([0, 5, 9]), 16, 20_000)
    assert sample.label.mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(sample.bits.mean(0), 0.5 ** (1 / 3), atol=0.02)


def small(**changed: Any) -> Any:
    settings = claims["sparse-variables"].scales["laptop"]
    return type(settings).model_validate(settings.model_dump() | {"width": 8, "heads": 2, "hidden": 5} | changed)


def stacked(*weights: sparse_variables.Weights) -> sparse_variables.Weights:
    return {name: torch.stack([each[name] for each in weights]) for name in weights[0]}


def test_the_models_are_those_that_are_described() -> None:
    """By a loop over strings, heads and positions, and by torch's own layers."""
    generator, settings = torch.Generator().manual_seed(0), small()
    w = sparse_variables.new_transformer(generator, 6, settings)
    bits = (torch.rand(3, 6, generator=generator) < 0.5).float()
    expected = []
    for string in bits:
        tokens = torch.stack([w["bit"][int(bit), 0] + w["position"][0, at] for at, bit in enumerate(string)])
        gathered = []
        for head in (slice(0, 4), slice(4, 8)):
            scores = (tokens @ w["key"])[:, head] @ w["query"][head] / 2
            gathered.append(scores.softmax(0) @ (tokens @ w["value"])[:, head])
        hidden = (torch.cat(gathered) @ w["out"] @ w["in"] + w["in_bias"][0]).relu()
        expected.append(hidden @ w["read"][:, 0] + w["read_bias"][0])
    found = sparse_variables.transformer(stacked(w, w), torch.stack([bits, bits]), 2)
    torch.testing.assert_close(found, torch.stack(expected).expand(2, 3))


def test_seeds_do_not_mix() -> None:
    settings = small(steps=20)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    samples = [sparse_variables.draw(rng, np.array([0, 1, 2]), 6, 10) for _ in range(2)]
    weights = [sparse_variables.new_transformer(generator, 6, settings) for _ in range(2)]

    def trained(chosen: Sequence[int]) -> sparse_variables.Weights:
        w = stacked(*[{name: part.clone() for name, part in weights[k].items()} for k in chosen])
        of = [samples[k] for k in chosen]
        sparse_variables.learn(w, lambda w, x: sparse_variables.transformer(w, x, 2), of, of, settings)
        return w

    together, alone = trained([0, 1]), trained([1])
    for name, part in together.items():
        torch.testing.assert_close(part[1], alone[name][0])
        assert not torch.equal(part[1], weights[1][name])


def test_slope() -> None:
    assert sparse_variables.slope(np.array([0.0, 1, 2]), np.array([1.0, 3, 5])) == pytest.approx(2)


def test_sparse_variables() -> None:
    found = run(
        "sparse-variables", seeds=2, bits=[4, 8], samples=[8, 32, 128], steps=100, width=16, hidden=16, relevant=2, held_out=200
    )
    require_findings("sparse-variables", found)
    assert found.measures["unlearned"].value <= 0.25
    unlearned = run("sparse-variables", seeds=2, bits=[4, 8], samples=[8, 11], width=4, heads=1, hidden=2, steps=1, held_out=200)
    assert unlearned.measures["unlearned"].value == 1
    assert claims["sparse-variables"].judge(unlearned.measures) == CANNOT


# --- k-decay


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


# --- Grafting


def short(name: str, **recipes: int) -> dict[str, Any]:
    """The claim's recipes, cut to so many steps in batches of 8, and to few examples."""
    settings = claims[name].scales["laptop"].model_dump()
    return {recipe: settings[recipe] | {"steps": steps, "batch": 8, "data_size": 100} for recipe, steps in recipes.items()}


def test_all_arms_of_grafting_have_adams_rate_and_schedule() -> None:
    base = parse_recipe(claims["grafting"].scales["paper"].model_dump()["recipe"])
    sgd = grafting.with_optimizer(base, {"kind": "sgd"})
    common = ("lr", "weight_decay", "warmup", "schedule", "end", "clip")
    assert sgd.optimizer.kind == "sgd"
    assert [getattr(sgd.optimizer, name) for name in common] == [getattr(base.optimizer, name) for name in common]
    assert sgd.override({"optimizer": base.optimizer}) == base


def test_grafting() -> None:
    found = run("grafting", seeds=2, measured=3, grid=[0.1], looks=2, **short("grafting", recipe=4))
    require_findings("grafting", found)
    assert found.passes == 4 * 2 * 7
    assert found.measures["spread"].value > 0.5
    assert 1 < found.measures["one_rate"].value / 3e-3 < 1000


# --- Scale-invariance, and what the initialization rate does without scale


def invariant_stack() -> Stack:
    """Two members of the claim's scale-invariant model, untrained."""
    recipe = parse_recipe(short("scale-invariance", invariant=4)["invariant"])
    return Stack([recipe.override({"seed": seed}) for seed in range(2)])


def test_the_encoder_is_scaled_and_the_head_is_not() -> None:
    stack = invariant_stack()
    before = [view.clone() for view in stack.layout.views(stack.weights)]
    trained.scale_encoder(stack, [2.0, 0.5])
    for name, old, new in zip(stack.layout.names, before, stack.layout.views(stack.weights), strict=True):
        factors = (1.0, 1.0) if name.startswith("unembedding") else (2.0, 0.5)
        torch.testing.assert_close(new, torch.stack([part * factor for part, factor in zip(old, factors, strict=True)]))


def test_attention_that_cannot_die_does_not_see_the_scale() -> None:
    stack = invariant_stack()
    usual = scale_invariance.dead_rows(stack)
    with scale_invariance.attention_that_cannot_die():
        assert (scale_invariance.dead_rows(stack) == 0).all()
        assert all((found < -9).all() for found in scale_invariance.invariance(stack))
        pattern = stack.model.layers[0].pattern(torch.tensor([[[-3.0, -np.inf], [1.0, -3.0]]]))
    assert pattern.tolist() == [[[1, 0], [0.25, 0.75]]]
    np.testing.assert_array_equal(scale_invariance.dead_rows(stack), usual)
    assert (usual > 0).all(), "of random scores, half of the first positions' are negative"


def test_the_plain_model_sees_the_scale() -> None:
    recipe = parse_recipe(short("scale-invariance", plain=4)["plain"])
    assert all((found > -4).all() for found in scale_invariance.invariance(Stack([recipe])))


def test_stable_rank() -> None:
    """Of diagonal matrices: 1 for one that has a single entry, 1 + 1/4 for entries 2 and 1."""
    stack = invariant_stack()
    for view in stack.layout.views(stack.weights):
        if view.dim() == 3:
            view.zero_()
            view[:, 0, 0] = 2
            view[1, 1, 1] = 1
    np.testing.assert_allclose(scale_invariance.stable_ranks(stack), [1, 1.25], rtol=1e-6)


def test_scale_invariance() -> None:
    found = run("scale-invariance", seeds=2, looks=2, **short("scale-invariance", invariant=2, plain=2, usual=2))
    require_findings("scale-invariance", found)
    assert found.measures["invariance"].high < -9
    assert found.measures["rank"].value < 0 < found.measures["rank_large"].value
    assert found.passes == 2 * 2 * (3 * 3 + 2)


def test_rate_without_scale() -> None:
    found = run("rate-without-scale", seeds=2, looks=2, **short("rate-without-scale", plain=2, same=2, invariant=2))
    require_findings("rate-without-scale", found)
    assert claims["rate-without-scale"].judge(found.measures) == CANNOT, "nothing is fit in two steps"
    assert found.passes == 3 * 2 * 2 * 2


# --- AdaShift


class PlainAdaShift(Optimizer):
    """For a scalar per tensor, from the definition: every gradient is kept."""

    class Config(OptimizerConfig):
        kind: Literal["adashift"] = "adashift"
        structural: ClassVar[tuple[str, ...]] = ("window", "phi")
        window: int = 10
        phi: str = "identity"
        beta1: float = 0.9
        beta2: float = 0.999
        eps: float = 1e-10

    def __init__(self, configs: Sequence[Any], layout: Layout, like: Tensor) -> None:
        super().__init__(configs, layout, like)
        self.seen: list[Tensor] = []
        self.second = torch.zeros_like(like)

    def step(self, into: Tensor, gradient: Tensor, weights: Tensor, rate: Tensor, t: int) -> None:
        c = self.configs[0]
        self.seen = [*self.seen[-c.window :], gradient.clone()]
        if t <= c.window:
            return
        self.second = c.beta2 * self.second + (1 - c.beta2) * self.seen[0] ** 2
        scale = (self.second / (1 - c.beta2 ** (t - c.window))).sqrt() + c.eps
        powers = [c.beta1**j for j in range(c.window)]
        mean = sum(p * g for p, g in zip(powers, self.seen[::-1], strict=False)) / sum(powers)
        into -= rate * mean / scale


@pytest.fixture
def with_adashift(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The registered optimizer, or the plain one where there is none."""
    if "adashift" not in optimizers.all:
        monkeypatch.setitem(optimizers.all, "adashift", PlainAdaShift)
    yield


def played(kind: str, steps: int, gradients: Callable[[int], float]) -> float:
    """Where the claim's own loop takes one number."""
    game = claims["adashift"].scales["laptop"].model_dump()["periodic"] | {"steps": steps}
    tensor = torch.ones(1, 1, dtype=torch.float64)
    return adashift.play(kind, adashift.Game(**game), lambda t: gradients(t) * tensor, (1, 1))[-1, 0]


@pytest.mark.parametrize("kind", ["adamw", "amsgrad"])
def test_the_game_is_played_by_the_optimizers(kind: str) -> None:
    def gradient(t: int) -> float:
        return 1010.0 if t % 101 == 1 else -10.0

    config = optimizers[kind].Config(beta1=0.9, beta2=0.99)
    gradients = [torch.tensor([gradient(t)], dtype=torch.float64) for t in range(1, 301)]
    expected = getattr(references, kind)(config, gradients, [0.01] * 300)
    assert played(kind, 300, gradient) == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.usefixtures("with_adashift")
def test_adashift_is_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0).standard_normal(301)
    found = played("adashift", 300, lambda t: float(draws[t]))
    monkeypatch.setitem(optimizers.all, "adashift", PlainAdaShift)
    assert found == pytest.approx(played("adashift", 300, lambda t: float(draws[t])), rel=1e-9)


@pytest.mark.usefixtures("with_adashift")
def test_adashift() -> None:
    settings = claims["adashift"].scales["laptop"].model_dump()
    found = run("adashift", seeds=8, streams=64, stochastic=settings["stochastic"] | {"steps": 2000})
    require_findings("adashift", found)
    assert found.measures["drift_difference"].low > 3
    assert found.measures["end"].value < -0.95
    assert found.measures["end_adam"].value > 0.95
    assert -0.5 < found.measures["end_amsgrad"].value < 0


def test_a_claim_without_its_optimizer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(optimizers.all, "adashift", raising=False)
    with pytest.raises(ValueError, match="unknown optimizer 'adashift'"):
        run("adashift")


# --- Dropout's regularization


def dropout_settings(**changed: Any) -> Any:
    settings = claims["dropout-regularization"].scales["laptop"]
    little = {"seeds": 2, "inputs": 2, "examples": 3, "width": 3, "steps": 20, "looks": 2}
    return type(settings).model_validate(settings.model_dump() | little | changed)


def doubled(settings: Any) -> tuple[dropout_regularization.Data, Tensor]:
    """Data and initial weights in double precision."""
    data, theta = dropout_regularization.draw(settings)
    return dropout_regularization.Data(*(part.double() for part in data)), theta.double()


def test_dropout_raises_the_mean_loss_by_r1() -> None:
    """Over all masks that there are, each as likely as any other; the loss by a loop over neurons."""
    data, theta = doubled(dropout_settings(scale=1.0, examples=2))
    masks = torch.tensor(list(itertools.product([0.0, 2.0], repeat=6)), dtype=torch.float64).view(-1, 1, 2, 3)
    losses = torch.stack([dropout_regularization.loss(theta, data, mask) for mask in masks])
    raised = losses.mean(0) - dropout_regularization.loss(theta, data)
    torch.testing.assert_close(raised, dropout_regularization.added(theta, data, 0.5))
    w, bias, out = theta[0, :6].view(2, 3), theta[0, 6:9], theta[0, 9:]
    expected = 0.0
    for inputs, label in zip(data.x[0, :, :2], data.y[0], strict=True):
        answer = sum(out[j] * torch.tanh(inputs[0] * w[0, j] + inputs[1] * w[1, j] + bias[j]) for j in range(3))
        expected += float((answer - label) ** 2) / 4
    assert dropout_regularization.loss(theta, data)[0].item() == pytest.approx(expected)
    drawn = torch.stack([masks() for masks in [dropout_regularization.Masks(dropout_settings(), "test")] for _ in range(200)])
    assert set(drawn.unique().tolist()) == {0.0, 2.0}
    assert drawn.mean().item() == pytest.approx(1, abs=0.1)


def test_directions_have_no_sign_and_faint_neurons_no_direction() -> None:
    """Input weights with bias (1, 0), (-2, 0.1), (0, 3) and (5, 5), the last with almost no output."""
    theta = torch.tensor([1.0, -2.0, 0.0, 5.0, 0.0, 0.1, 3.0, 5.0, 1.0, 1.0, 1.0, 1e-3])
    assert dropout_regularization.directions(theta, 2) == 2
    theta[-1] = 1.0
    assert dropout_regularization.directions(theta, 2) == 3


def test_slices_rise_as_the_hessian_says() -> None:
    settings = dropout_settings(examples=20)
    data, theta = doubled(settings)
    of = dropout_regularization.Data(data.x[0], dropout_regularization.forward(theta[0], data)[0][0].sum(-1) * 0)
    theta[0, -3:] *= 1e-3  # near the minimum of labels that are zero
    curvature = dropout_regularization.hessian(theta[0], of).diagonal()
    small = 0.1**2 / 2 * sum(theta[0, part].square().sum() * curvature[part].mean() for part in (slice(9), slice(9, None)))
    rises = dropout_regularization.rises(theta[0], of, 1000, seed=0)
    near = dropout_regularization.SLICE.index(0.1)
    assert (rises[near] + rises[-near - 1]) / 2 == pytest.approx(float(small), rel=0.1)
    assert rises[len(rises) // 2] == 0


def test_alignment_is_compared_with_rotations() -> None:
    rng = np.random.default_rng(0)
    d, draws = 5, 4000
    root = rng.standard_normal((d, d)) * [3, 1, 1, 0.3, 0.1]
    curvature = root @ np.diag([2, 1, 1, 0.5, -0.1]) @ root.T
    noise = rng.standard_normal((draws, d)) @ root.T
    covariance = np.cov(noise.T)
    norms = np.linalg.norm(curvature) * np.linalg.norm(covariance)
    found, bound = dropout_regularization.alignment(torch.from_numpy(curvature), torch.from_numpy(noise - noise.mean(0)))
    assert found == pytest.approx(np.trace(curvature @ covariance) / norms, rel=0.01)
    turns = np.linalg.qr(rng.standard_normal((20_000, d, d)))
    turns = turns.Q * np.sign(np.diagonal(turns.R, axis1=1, axis2=2))[:, None]
    rotated = np.einsum("ij,rjk,kl,ril->r", curvature, turns, covariance, turns) / norms
    assert bound == pytest.approx(rotated.mean() + 1.96 * rotated.std(), rel=0.02)


def test_dropout_seeds_do_not_mix() -> None:
    two, three = dropout_settings(), dropout_settings(seeds=3)
    for arm in dropout_regularization.ARMS:
        nets = [
            dropout_regularization.train(start, data, arm, settings)
            for settings in (two, three)
            for data, start in [dropout_regularization.draw(settings)]
        ]
        assert len(nets[0]) == 3
        torch.testing.assert_close(nets[0][-1], nets[1][-1][:2])
        assert not torch.equal(nets[0][-1], nets[0][0])


def test_nets_stop_at_the_loss_of_comparison() -> None:
    settings = dropout_settings(matched=0.02, most=3000)
    data, theta = dropout_regularization.draw(settings)
    there, steps = dropout_regularization.descend(theta, data, settings)
    assert 0 < steps < 3000
    losses = dropout_regularization.loss(there, data)
    assert ((losses <= 0.02) & (losses > 0.015)).all(), "the seeds stop at different steps"
    assert torch.equal(dropout_regularization.descend(there, data, settings)[0], there)


def test_dropout_regularization() -> None:
    small = {"seeds": 2, "inputs": 4, "width": 16, "steps": 60, "looks": 1, "most": 10}
    found = run("dropout-regularization", **small, masks=200, gradients=100, slices=10)
    require_findings("dropout-regularization", found)
    assert abs(found.measures["identity"].value) < 0.2
    assert found.measures["alignment"].value > 0.5
    assert found.measures["directions"].value > 10
    assert found.measures["unmatched"].value >= 0.5
    assert claims["dropout-regularization"].judge(found.measures) == CANNOT


# --- The embedding principle


GROUND = embedding_principle.Ground(inputs=2, neurons=3, examples=20)


def test_drawn_points_are_critical() -> None:
    net, data = point = embedding_principle.drawn(GROUND, 0)
    expected = torch.func.jacrev(lambda w: embedding_principle.outputs(embedding_principle.shaped(w, net), data.x))(
        embedding_principle.flat(net)
    )
    torch.testing.assert_close(embedding_principle.jacobian(net, data.x), expected)
    assert embedding_principle.flat(embedding_principle.gradient(*point)).abs().max() < 1e-14
    assert (embedding_principle.outputs(net, data.x) - data.y).std() > 0.3


def test_trained_points_are_minima() -> None:
    found = [embedding_principle.trained(embedding_principle.Ground(inputs=1, neurons=1, examples=10), 2, 5, k) for k in range(2)]
    points = [point for point in found if point is not None]
    assert points
    for point in points:
        assert embedding_principle.flat(embedding_principle.gradient(*point)).abs().max() < 1e-11
        assert embedding_principle.inertia(embedding_principle.hessian(*point)) == (0, 0, 4)


def test_a_split_neuron_by_hand() -> None:
    """Of one neuron, 3 tanh(2x + 1) - 1, a quarter goes to the copy: outputs stay, and finite differences give the gradient."""
    net = {
        "ff_in.weight": torch.tensor([[[2.0]]], dtype=torch.float64),
        "ff_in.bias": torch.tensor([[1.0]], dtype=torch.float64),
        "ff_out.weight": torch.tensor([[[3.0]]], dtype=torch.float64),
        "ff_out.bias": torch.tensor([[-1.0]], dtype=torch.float64),
    }
    x = torch.tensor([[0.3], [-0.8], [0.1]], dtype=torch.float64)
    point = embedding_principle.Point(net, embedding_principle.Data(x, torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)))
    wide = embedding_principle.split(point, 2, 0.25)
    assert wide.net["ff_out.weight"].flatten().tolist() == [2.25, 0.75]
    for embedded in (wide, embedding_principle.null(point, 0.7)):
        torch.testing.assert_close(embedding_principle.outputs(embedded.net, x), 3 * (2 * x[:, 0] + 1).tanh() - 1)
        loss, at = embedding_principle.loss_of(embedded.net, point.data), embedding_principle.flat(embedded.net)
        steps = 1e-6 * torch.eye(len(at), dtype=torch.float64)
        slopes = torch.stack([(loss(at + step) - loss(at - step)) / 2e-6 for step in steps])
        torch.testing.assert_close(embedding_principle.flat(embedded.gradient), slopes, rtol=1e-6, atol=1e-9)
    assert embedding_principle.apart(wide.gradient, embedding_principle.split(point, 2, 0.75).gradient) > 0.01


def test_eigenvalues_are_counted() -> None:
    matrix = torch.diag(torch.tensor([-2.0, 1e-14, 0.0, 1.0, 1e-6], dtype=torch.float64))
    assert embedding_principle.inertia(matrix) == (1, 2, 2)
    assert embedding_principle.gap(matrix) == pytest.approx(8)


def test_embedding_principle() -> None:
    settings = claims["embedding-principle"].scales["laptop"].model_dump()
    recipe = settings["recipe"] | {"steps": 3, "batch": 8}
    ground = {"inputs": 1, "neurons": 1, "examples": 10}
    found = run("embedding-principle", seeds=3, trained=ground, teacher=2, alphas=[0.5, -1.0], widths=[2], recipe=recipe, models=2)
    require_findings("embedding-principle", found)
    assert found.measures["kept"].value == found.measures["exact"].value == 1
    assert max(found.measures[name].value for name in ("critical", "gradient", "gradient_gpt")) < -12
    assert found.measures["gap"].value > 3
    assert claims["embedding-principle"].judge(found.measures) == CANNOT, "too few points"
