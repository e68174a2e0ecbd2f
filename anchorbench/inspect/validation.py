"""Evaluates the mechanistic verdict: on planted circuits, on held-out runs, and on how early in training it is right.

`validate` trains the unfinished runs of a trial, reads the deciding features of every run, and predicts each run's
behaviour with weights fitted on the other recipes only: all seeds of a recipe are held out together. Behaviour is used for fitting
and grading, never as a feature.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from anchorbench.inspect.mechanism import (
    COMPOSITION,
    EXCEPTION,
    SURE,
    Classifier,
    Logistic,
    fit_logistic,
    mechanisms,
    read_features,
)
from anchorbench.inspect.open_model import StackModel, open_runs, side_by_side
from anchorbench.inspect.planted import key_to_anchors, key_to_anchors_lookup, pair_lookup, rotated, with_noise
from anchorbench.inspect.statistics import auroc, share, within_recipes
from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.model.initialize import initialize
from anchorbench.model.initializers.rate import Rate
from anchorbench.presets import PRESETS
from anchorbench.recipe import SEEDS, Recipe
from anchorbench.seeds import stream_seed
from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.runner import Progress, Sweep, SweepFolder, run_sweep
from anchorbench.task import Task, load_task
from anchorbench.train.execution import Execution
from anchorbench.train.gradients.choice import auto_precision
from anchorbench.verdict import FIT

KEEP_STEPS = (150, 300, 600, 900, 1200, 1500, 2000, 2500)
"""Intermediate steps at which weights are kept, for the curve of how early the verdict is right."""
QUICK_SEEDS = (100, 101)
"""Seeds that the shipped weights were not fitted on."""
STATED_NOISE = 0.03
"""Noise up to which every planted circuit should be classified correctly; at 0.05 the number line of `key_to_anchors` confuses
neighbours.
"""
MEMBERS = 8
"""Members read at once."""


@dataclass(frozen=True)
class Trial:
    """What `validate` runs; the defaults are those of the full validation."""

    sweeps: Mapping[str, Sweep]
    shipped: bool = False
    """Whether the shipped weights are graded; otherwise, each run is graded with weights fitted on the other recipes."""
    task: Task = field(default_factory=lambda: load_task("composite"))
    """Task of the planted and the null models."""
    noises: tuple[float, ...] = (0.0, 0.01, 0.02, 0.03, 0.1, 0.3, 0.8)
    """Noise on planted weights, relative to each matrix's root mean square."""
    planted_seeds: int = 5
    null_members: int = 8
    null_steps: int = 300
    """Steps of training on shuffled labels."""


def full_trial() -> Trial:
    """New weights, fitted and graded on 280 runs."""
    return Trial(sweeps(quick=False))


def quick_trial() -> Trial:
    """The shipped weights, graded on four runs that they were not fitted on: a minute on two cores."""
    return Trial(sweeps(quick=True), shipped=True, noises=(0.0, 0.03, 0.3), planted_seeds=2, null_members=2)


def sweeps(*, quick: bool) -> dict[str, Sweep]:
    """Name -> sweep: pre- and post-LN, over gamma, weight decay, learning rate, depth and seeds; 280 runs, or 4 if `quick`."""
    pre = PRESETS["laptop"].override({"precision": auto_precision()})
    post = pre.override({"model.norm": "post", "steps": 3000, "optimizer.warmup": 500, "optimizer.weight_decay": 0.01})
    if quick:
        return {
            "pre": Sweep(pre.override({"steps": 1100}), {"init.gamma": (0.7,), "seed": QUICK_SEEDS}),
            "post": Sweep(post.override({"steps": 1500, "optimizer.lr": 2e-3}), {"init.gamma": (0.55,), "seed": QUICK_SEEDS}),
        }
    conflict = pre.override({"variant": "conflict", "steps": 2000, "optimizer.weight_decay": 0.1})

    def over(base: Recipe, seeds: int, *gammas: float, **axes: tuple[float, ...]) -> Sweep:
        return Sweep(base, {**axes, "init.gamma": gammas, "seed": tuple(range(seeds))})

    return {
        "post": over(post, 8, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8),
        "pre": over(pre, 8, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7),
        "pre-decay": over(pre.override({"optimizer.weight_decay": 1.0, "steps": 1800}), 6, 0.35, 0.4, 0.5, 0.6),
        "pre-rate": over(pre, 6, 0.4, 0.5, 0.6, **{"optimizer.lr": (5e-4, 2e-3)}),
        "conflict-pre": over(conflict, 6, 0.45, 0.5, 0.6, 0.65, 0.7, 0.8),
        "post-decay": over(post.override({"optimizer.weight_decay": 0.1}), 8, 0.5, 0.6, 0.7),
        "post-rate": over(post.override({"optimizer.lr": 1.5e-3}), 8, 0.5, 0.6, 0.7),
        "conflict-post": over(post.override({"variant": "conflict"}), 4, 0.5, 0.6, 0.7),
        "pre-deep": over(pre.override({"model.n_layer": 3}), 4, 0.4, 0.5, 0.6),
    }


@dataclass(frozen=True)
class Observed:
    """Runs, and the features read from each, `[runs]`."""

    runs: list[Run]
    features: dict[str, Float[np.ndarray, " runs"]]
    """NaN where a feature does not apply to a run's task."""
    accuracy: Float[np.ndarray, " runs"]

    def where(self, chosen: Bool[np.ndarray, " runs"]) -> "Observed":
        runs = [run for run, take in zip(self.runs, chosen, strict=True) if take]
        return Observed(runs, {name: values[chosen] for name, values in self.features.items()}, self.accuracy[chosen])

    @property
    def recipes(self) -> list[str]:
        """Each run's recipe without its seeds, as text."""
        return [json.dumps(run.recipe.model_dump(mode="json") | dict.fromkeys(SEEDS), sort_keys=True) for run in self.runs]


def observe(runs: Sequence[Run], step: int | None = None) -> Observed:
    """Reads the deciding features of all runs, optionally at an intermediate step whose weights were kept."""
    alike: dict[Any, list[int]] = {}
    for number, run in enumerate(runs):
        alike.setdefault((run.recipe.model, run.result.task_fingerprint), []).append(number)
    rows: list[dict[str, float]] = [{} for _ in runs]
    for numbers in alike.values():
        task = runs[numbers[0]].recipe.load_task()
        for start in range(0, len(numbers), MEMBERS):
            part = numbers[start : start + MEMBERS]
            found, accuracy = read_features(open_runs([runs[number] for number in part], step), task)
            for member, number in enumerate(part):
                rows[number] = {name: float(values[member]) for name, values in found.items()} | {"accuracy": accuracy[member]}
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    return Observed(list(runs), table, table.pop("accuracy"))


def decided(observed: Observed, question: str) -> tuple[Observed, Bool[np.ndarray, " runs"]]:
    """The runs with a clear `composition` or `exception` behaviour, and a mask of those that are inferential, or ordered."""
    yes, no = {"composition": ("inferential", "memorizing"), "exception": ("ordered", "symmetric")}[question]
    verdicts = np.array([str(getattr(run.result, question)) for run in observed.runs])
    chosen = (verdicts == yes) | (verdicts == no)
    return observed.where(chosen), verdicts[chosen] == yes


def fit(observed: Observed) -> Classifier:
    """Fits the weights on all runs with clear behaviour. Raises ValueError if all of them are of one class."""
    of_composition, infers = decided(observed, "composition")
    of_exception, in_order = decided(observed, "exception")
    exception = None
    if len(set(in_order.tolist())) == 2:
        exception = fit_logistic(EXCEPTION, of_exception.features, in_order)
    return Classifier(composition=fit_logistic(COMPOSITION, of_composition.features, infers), exception=exception)


def fitted_without(
    left_out: Sequence[str],
    features: Sequence[str],
    found: Mapping[str, np.ndarray],
    positive: np.ndarray,
    recipes: Sequence[str],
) -> dict[str, Logistic | None]:
    """Recipe of `left_out` -> weights fitted on the runs of all other recipes; None if those are all of one class."""
    weights: dict[str, Logistic | None] = {}
    for recipe in dict.fromkeys(left_out):
        rest = np.array([other != recipe for other in recipes])
        both = len(set(positive[rest].tolist())) == 2
        weights[recipe] = fit_logistic(features, {name: found[name][rest] for name in features}, positive[rest]) if both else None
    return weights


def predicted(weights: Mapping[str, Logistic | None], found: Mapping[str, np.ndarray], recipes: Sequence[str]) -> np.ndarray:
    """Probability of each run under the weights that never saw its recipe; 0.5 where there are none."""
    probability = np.full(len(recipes), 0.5)
    for recipe in dict.fromkeys(recipes):
        test = np.array([other == recipe for other in recipes])
        if (fitted := weights[recipe]) is not None:
            probability[test] = fitted.probability({name: found[name][test] for name in fitted.features})
    return probability


def held_out(features: Sequence[str], found: Mapping[str, np.ndarray], positive: np.ndarray, recipes: Sequence[str]) -> np.ndarray:
    """Probability of each run under weights fitted on the other recipes; 0.5 where those are all of one class."""
    return predicted(fitted_without(recipes, features, found, positive, recipes), found, recipes)


def recipe_features(runs: Sequence[Run]) -> dict[str, Float[np.ndarray, " runs"]]:
    """Features known without looking at the weights: the baseline that a probe has to beat."""
    recipes = [run.recipe for run in runs]
    return {
        "gamma": np.array([recipe.init.gamma for recipe in recipes]),
        "weight_decay": np.array([recipe.optimizer.weight_decay for recipe in recipes]),
        "log_lr": np.log10([recipe.optimizer.lr for recipe in recipes]),
        "post_norm": np.array([float(recipe.model.norm == "post") for recipe in recipes]),
        "n_layer": np.array([float(recipe.model.n_layer) for recipe in recipes]),
        "steps": np.array([float(recipe.steps) for recipe in recipes]),
    }


def planted(classifier: Classifier, trial: Trial) -> list[dict[str, Any]]:
    """Verdicts on planted circuits: the papers' two, and a lookup table behind the attention of the first; both norms, several
    noise levels, in a random basis; one row per model.
    """
    task = trial.task
    rows: list[dict[str, Any]] = []
    circuits = (("inferential", key_to_anchors), ("memorizing", pair_lookup), ("memorizing", key_to_anchors_lookup))
    for truth, plant in circuits:
        for norm in ("pre", "post"):
            for noise in trial.noises:
                models = [with_noise(rotated(plant(task, norm, seed), seed), noise, seed) for seed in range(trial.planted_seeds)]
                for found in mechanisms(side_by_side(models), task, classifier):
                    rows.append(
                        {"circuit": plant.__name__, "truth": truth, "norm": norm, "noise": noise, "verdict": found.verdict}
                        | _numbers(found)
                    )
    return rows


def nothing(classifier: Classifier, trial: Trial) -> list[dict[str, Any]]:
    """Verdicts on untrained models and on models trained on shuffled labels; one row per model.

    All of them are below FIT, so the accuracy gate alone leaves them undecided: this says nothing about the features.
    """
    task, members = trial.task, trial.null_members
    rows: list[dict[str, Any]] = []
    for norm in ("pre", "post"):
        stack = GPT(ModelConfig(norm=norm), members=members, vocab_size=task.vocab_size, seq_len=task.seq_len)
        initialize(stack, [Rate.Config(gamma=0.4 + 0.4 * member / members) for member in range(members)], list(range(members)))
        for kind in ("untrained", "shuffled labels"):
            if kind == "shuffled labels":
                _train_on_shuffled_labels(stack, task, trial.null_steps)
            rows += [
                {"kind": kind, "norm": norm, "verdict": found.verdict} | _numbers(found)
                for found in mechanisms(StackModel(stack), task, classifier)
            ]
    return rows


def _numbers(found: Any) -> dict[str, float]:
    return {"accuracy": found.accuracy} | {name: found.features[name] for name in COMPOSITION}


def _train_on_shuffled_labels(stack: GPT, task: Task, steps: int) -> None:
    """Trains on training sequences with randomly permuted labels."""
    from anchorbench.train.gradients.backprop import Backprop

    laptop = PRESETS["laptop"]
    examples = task.sample("train", laptop.batch * steps, 0)
    rng = np.random.default_rng(stream_seed(0, "order"))
    tokens, labels = torch.from_numpy(examples.tokens), torch.from_numpy(rng.permutation(examples.label))
    backprop, adam = Backprop(stack, laptop.batch), torch.optim.AdamW(stack.parameters(), lr=laptop.optimizer.lr)
    for part, answers in zip(tokens.split(laptop.batch), labels.split(laptop.batch), strict=True):
        backprop(part.expand(stack.members, -1, -1), answers.expand(stack.members, -1))
        for parameter, gradient in backprop.gradients.items():
            parameter.grad = gradient
        adam.step()


def early(
    chosen: Observed,
    infers: np.ndarray,
    weights: Mapping[str, Logistic | None],
    read: Callable[[Sequence[Run], int], Observed] = observe,
) -> list[dict[str, Any]]:
    """How well the features at intermediate steps predict the final behaviour, with weights fitted on other recipes at the end of
    training; one row per fraction of training.
    """
    rows: list[dict[str, Any]] = []
    for fraction in (0.1, 0.2, 0.3, 0.5, 0.7):
        nearest = [min(KEEP_STEPS, key=lambda step: abs(step - fraction * run.recipe.steps)) for run in chosen.runs]
        probability = np.full(len(chosen.runs), np.nan)
        for step in dict.fromkeys(nearest):
            at = [number for number, other in enumerate(nearest) if other == step]
            seen = read([chosen.runs[number] for number in at], step)
            probability[at] = predicted(weights, seen.features, seen.recipes)
        rows.append({"fraction": fraction, "auroc": auroc(probability, infers, chosen.recipes)})
    return rows


def validate(out: Path, report: Callable[[str], None], trial: Trial) -> dict[str, Any]:
    """Trains the missing runs in `out`, and returns what `anchorbench probe validate --json` writes."""
    runs: list[Run] = []
    for name, sweep in trial.sweeps.items():
        report(f"{name}: {len(sweep.runs())} runs")
        keep = [step for step in KEEP_STEPS if step < sweep.base.steps]

        def say(event: Progress) -> None:
            if event.message:
                report(event.message)

        runs += run_sweep(sweep, SweepFolder(out / name, sweep), say, Execution(keep_steps=() if trial.shipped else keep))
    report(f"reading {len(runs)} runs")
    observed = observe(runs)
    result = _grade_shipped(observed) if trial.shipped else _grade_held_out(observed, report)
    classifier: Classifier = result.pop("classifier")
    report("planted circuits and null models")
    plants, nulls = planted(classifier, trial), nothing(classifier, trial)
    stated = [row for row in plants if row["noise"] <= STATED_NOISE and row["circuit"] != key_to_anchors_lookup.__name__]
    wrong = [row for row in plants if row["verdict"] not in (row["truth"], "undecided")]
    return {
        "planted_accuracy": share(sum(row["verdict"] == row["truth"] for row in stated), len(stated)) | {"noise": STATED_NOISE},
        "planted_wrong": share(len(wrong), len(plants)) | {"noise": max(trial.noises)},
        "null_undecided": share(sum(row["verdict"] == "undecided" for row in nulls), len(nulls)),
        **result,
        "planted": plants,
        "null": nulls,
        "weights": classifier.model_dump(mode="json"),
    }


def _grade_shipped(observed: Observed) -> dict[str, Any]:
    from anchorbench.inspect.mechanism import load_classifier

    classifier = load_classifier()
    chosen, infers = decided(observed, "composition")
    probability = classifier.composition.probability(chosen.features)
    return {"classifier": classifier, **_grades(chosen, infers, probability, "composition")}


def _grade_held_out(
    observed: Observed, report: Callable[[str], None], read: Callable[[Sequence[Run], int], Observed] = observe
) -> dict[str, Any]:
    chosen, infers = decided(observed, "composition")
    weights = fitted_without(observed.recipes, COMPOSITION, chosen.features, infers, chosen.recipes)
    probability = predicted(weights, chosen.features, chosen.recipes)
    baseline = recipe_features(chosen.runs)
    guessed = held_out(tuple(baseline), baseline, infers, chosen.recipes)
    asked = np.array([run.result.composes is not None and run.result.accuracy_iid.value >= FIT for run in observed.runs])
    every = observed.where(asked)  # including runs with mixed behaviour, which are never used for fitting
    of_every = predicted(weights, every.features, every.recipes)
    shares = np.array([run.result.inferential for run in every.runs])
    pre_norm = np.array([run.recipe.model.norm == "pre" for run in every.runs])
    exceptions, in_order = decided(observed, "exception")
    exception_p = held_out(EXCEPTION, exceptions.features, in_order, exceptions.recipes)
    report("reading the weights kept during training")
    return {
        "classifier": fit(observed),
        **_grades(chosen, infers, probability, "composition"),
        "baseline_agreement": share(int(((guessed >= 0.5) == infers).sum()), len(infers)),
        "baseline_auroc": auroc(guessed, infers, chosen.recipes),
        "recipes": len(set(chosen.recipes)),
        "features": {name: auroc(chosen.features[name], infers, chosen.recipes) for name in COMPOSITION},
        "within_recipe": within_recipes(of_every, shares, every.recipes),
        "within_recipe_pre_norm": within_recipes(of_every[pre_norm], shares[pre_norm], every.where(pre_norm).recipes),
        "exception": _grades(exceptions, in_order, exception_p, "exception"),
        "early": early(chosen, infers, weights, read),
    }


def _grades(observed: Observed, positive: np.ndarray, probability: np.ndarray, question: str) -> dict[str, Any]:
    """Agreement of verdict and behaviour; an undecided verdict does not agree."""
    yes, no = (probability >= SURE), (probability <= 1 - SURE)
    fitting = observed.accuracy >= FIT
    agree = fitting & np.where(positive, yes, no)
    against = fitting & np.where(positive, no, yes)
    listed = [
        {
            "run_id": run.result.run_id,
            "norm": run.recipe.model.norm,
            "n_layer": run.recipe.model.n_layer,
            "gamma": run.recipe.init.gamma,
            "seed": run.recipe.seed,
            "behaviour": getattr(run.result, question),
            "inferential": run.result.inferential,
            "probability": float(p),
            "opposite": bool(opposite),
        }
        for run, p, agrees, opposite in zip(observed.runs, probability, agree, against, strict=True)
        if not agrees
    ]
    return {
        "heldout_agreement": share(int(agree.sum()), len(agree)),
        "heldout_opposite": share(int(against.sum()), len(agree)),
        "heldout_auroc": auroc(probability, positive, observed.recipes) if len(set(positive.tolist())) == 2 else None,
        "heldout_runs": len(agree),
        "disagreements": listed,
    }
