"""Which task variants can rank ways of training by what they make a model infer: the study behind the suite.

Rules. Every candidate is trained with the laptop preset's model at all initialization rates of `GAMMAS`, pre-LN and post-LN, with
the same `SEEDS` for every recipe, so that variants that hold out another pair by seed hold out the same ones for all. Of its runs
that fit, the share of held-out answers that compose is compared between the ten recipes. A candidate enters the suite if

- at least half of its runs fit,
- the mean share that they compose is within 0.1 to 0.9: neither floor nor ceiling,
- recipes differ: the intraclass correlation (Shrout and Fleiss 1979, ICC(3,1): recipes and seeds crossed, so that what a seed's
  pair adds to all recipes is not noise) is at least 0.25, and the F test of recipes in a two-way analysis of variance has p < 0.05,
  divided by the number of candidates.

Of several variants of one task that pass, the one that holds out most pairs in turn enters, so that no rank rests on one pair;
among those with equally many, the one with the largest intraclass correlation. A candidate that brings its own optimizer is graded,
but cannot enter: an entry brings one.

The rules were written before the runs, but for two changes after four of the 22 candidates had been read: the correlation was
ICC(1), which counts pairs as noise, and the largest one entered, which preferred variants with a single pair. One candidate was
added when 14 had been read: random-permutations with the preset's optimizer, since its paper's cannot enter.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import Field, ValidationError
from scipy import stats

from anchorbench.files import Plain, read_json, write_atomically
from anchorbench.presets import PRESETS
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.runner import Progress, run_sweep
from anchorbench.task import first_sentence, load_task
from anchorbench.train.trajectory import Verdict
from anchorbench.verdict import FIT

GAMMAS = (0.4, 0.5, 0.6, 0.7, 0.9)
SEEDS = (500, 501, 502, 503)
FITTED = 0.5
"""Least share of a candidate's runs that fit."""
FLOOR, CEILING = 0.1, 0.9
CORRELATION = 0.25
LEVEL = 0.05

PERMUTATIONS: Mapping[str, Any] = {
    "model": {"n_head": 2, "d_head": 32},
    "optimizer": {
        **{"lr": 3e-3, "beta2": 0.98, "schedule": "constant", "warmup": 0},
        **{"weight_decay": 1e-3, "decay": "unscaled", "decay_embeddings": False},
    },
    "steps": 15_000,
    "data_size": 720,
}
"""The setting of 2605.04396, experiment E2a: decay is not multiplied by the learning rate."""
CANDIDATES: Mapping[str, Mapping[str, Any]] = {
    "composite/heldout-pairs": {},
    "composite/heldout-both": {},
    "composite/conflict-control": {},
    "composition/anchors-first": {},
    "nine-anchors/heldout-ten": {},
    "full-symmetry/default": {},
    "random-permutations/default": PERMUTATIONS,
    "random-permutations/default, by the preset": {"steps": 15_000, "data_size": 720},
    "two-anchors/overlap": {},
    "ten-anchors/intervals": {},
    "variable-composition/12-to-34": {},
    "two-anchors/odd-even": {},
    "composition/key-first": {},
    "nine-anchors/heldout-both": {},
    "two-anchors/three-intervals": {},
    "near-synonym/add-synonym": {},
    "variable-composition/123-to-4": {},
    "two-anchors/intervals": {},
    "reading-comprehension-lookup/default": {},
    "nearest-value-classification/default": {},
    "memory-reasoning/default": {"task_config": {"key_min": 21, "key_max": 38}},
    "near-synonym/add-doubled": {},
    "addition/least-first": {},
}
"""Task, variant and what else is particular -> fields that differ from the laptop preset."""


def task_of(candidate: str) -> tuple[str, str]:
    """Task and variant."""
    task, variant = candidate.split(",", maxsplit=1)[0].split("/")
    return task, variant


def sweep_of(candidate: str) -> Sweep:
    """The runs of a candidate."""
    task, variant = task_of(candidate)
    base = PRESETS["laptop"].override({"task": task, "variant": variant, "precision": "fp32", **CANDIDATES[candidate]})
    return Sweep(base, {"model.norm": ("pre", "post"), "init.gamma": GAMMAS, "seed": SEEDS})


Unit = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[int, Field(ge=0, lt=2**31)]


@dataclass(frozen=True)
class Member:
    """What counts of one run."""

    norm: str
    gamma: Annotated[float, Field(ge=-10, le=100)]
    seed: Number
    seen: Unit
    """Accuracy on trained groups in fresh sequences."""
    composed: Unit
    verdict: Verdict | None = None
    exception: Verdict | None = None
    """How it treats a trained exception, in a task that has one."""

    @property
    def recipe(self) -> tuple[str, float]:
        return self.norm, self.gamma


def member_of(run: Run) -> Member:
    """What the study reads from a finished run."""
    row, result = run.row(), run.result
    seen = result.accuracy_seen or result.accuracy_train
    return Member(
        row["norm"],
        row["gamma"],
        row["seed"],
        seen=seen.value,
        composed=row["inferential"],
        verdict=result.verdict,
        exception=result.exception,
    )


@dataclass(frozen=True)
class Grade:
    """What the rules ask of a candidate; None where too few runs fit to say."""

    candidate: str
    pairs: Number
    """Pairs, or other groups, that the variant holds out in turn, by seed."""
    runs: Number
    fitted: Number
    composed: Unit | None
    """Mean share that fitted runs compose."""
    correlation: Annotated[float, Field(ge=-1, le=1)] | None
    """Intraclass correlation between recipes."""
    p: Unit | None
    """p-value of the F test of the hypothesis that all recipes compose alike."""
    enters: bool
    why: str
    """The rule that it fails; empty if it enters."""


def grade(candidate: str, members: Sequence[Member], candidates: int, pairs: int = 1) -> Grade:
    """Applies the rules to the runs of one of so many candidates, which holds out so many pairs in turn."""
    fitted = [member for member in members if member.seen >= FIT]
    correlation, p = intraclass([(each.recipe, each.seed, each.composed) for each in fitted])
    composed = float(np.mean([member.composed for member in fitted])) if fitted else None
    why = ""
    if "optimizer" in CANDIDATES.get(candidate, {}):
        why = "brings its own optimizer"
    elif len(fitted) < FITTED * len(members) or composed is None:
        why = "too few runs fit"
    elif composed < FLOOR:
        why = "floor"
    elif composed > CEILING:
        why = "ceiling"
    elif correlation is None or p is None or correlation < CORRELATION or p >= LEVEL / candidates:
        why = "recipes are not shown to differ"
    return Grade(candidate, pairs, len(members), len(fitted), composed, correlation, p, not why, why)


def intraclass(values: Sequence[tuple[Hashable, Hashable, float]]) -> tuple[float | None, float | None]:
    """ICC(3,1) of values given as (recipe, seed, value), and the p-value of the F test between recipes.

    Recipes and seeds need not all be crossed: the mean squares are those of recipes beyond seeds in an additive model, and the
    number of seeds behind a recipe is that of Henderson's third method. None for each without two recipes, without values beyond
    those that the model needs, or without any variance.
    """
    recipes, seeds = (sorted({each[side] for each in values}, key=str) for side in (0, 1))
    of_recipe = np.array([[each[0] == recipe for recipe in recipes] for each in values], dtype=float)
    of_seed = np.array([[each[1] == seed for seed in seeds] for each in values], dtype=float)
    y = np.array([each[2] for each in values])
    if len(recipes) < 2:
        return None, None
    both = np.hstack([of_seed, of_recipe])
    between_df = int(np.linalg.matrix_rank(both)) - len(seeds)
    within_df = len(y) - between_df - len(seeds)
    if between_df < 1 or within_df < 1:
        return None, None
    within = float(np.square(_residual(both, y)).sum()) / within_df
    beyond_seeds = _residual(of_seed, of_recipe)
    between = (float(np.square(_residual(of_seed, y)).sum()) - within * within_df) / between_df
    size = float((of_recipe * beyond_seeds).sum()) / between_df
    if np.ptp(y) == 0 or between + within <= 1e-12:
        return None, None
    correlation = (between - within) / (between + (size - 1) * within)
    return float(correlation), float(stats.f.sf(between / within, between_df, within_df)) if within > 1e-12 else 0.0


def _residual(predictors: Float[np.ndarray, "n p"], values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
    """What least squares on the predictors leaves of values."""
    return values - predictors @ np.linalg.lstsq(predictors, values, rcond=None)[0]


def chosen(grades: Sequence[Grade]) -> list[str]:
    """The candidates that enter the suite: of each task, the variant with most pairs, then with the largest correlation."""
    best: dict[str, Grade] = {}
    for each in sorted(grades, key=lambda each: (each.pairs, each.correlation or 0)):
        if each.enters:
            best[task_of(each.candidate)[0]] = each
    return [each.candidate for each in grades if each in best.values()]


class Study(Plain):
    """The file of a study: what it found so far."""

    grades: list[Grade]
    suite: list[str]
    members: dict[str, list[Member]]


def read_study(path: Path) -> Study:
    """Raises ValueError with one sentence if the file is damaged or not of a study."""
    try:
        return Study.model_validate(read_json(path))
    except ValidationError as error:
        raise ValueError(f"{path}: {first_sentence(error)}") from None


def study(out: Path, path: Path, report: Callable[[str], None], candidates: Sequence[str] = tuple(CANDIDATES)) -> Study:
    """Trains the missing runs of all candidates in `out`, and writes what is known to the JSON file `path` after each of them.

    Candidates whose runs are in the file already are not trained again. Raises ValueError as `read_study` does.
    """
    members = read_study(path).members if path.exists() else {}
    found = _graded(members, candidates)

    def say(event: Progress) -> None:
        if event.message:
            report(event.message)

    for candidate in candidates:
        if candidate not in members:
            report(candidate)
            sweep = sweep_of(candidate)
            folder = SweepFolder(out / re.sub(r"\W+", "-", candidate), sweep)
            members[candidate] = [member_of(run) for run in run_sweep(sweep, folder, say)]
            found = _graded(members, candidates)
            write_atomically(path, (found.model_dump_json() + "\n").encode())
    return found


def pairs_of(candidate: str) -> int:
    """How many pairs, or other groups, a candidate holds out in turn, by seed."""
    task, variant = task_of(candidate)
    loaded = load_task(task, variant, **CANDIDATES[candidate].get("task_config", {}))
    return len({loaded.for_seed(seed).fingerprint for seed in range(60)})


def _graded(members: dict[str, list[Member]], candidates: Sequence[str]) -> Study:
    grades = [grade(name, members[name], len(candidates), pairs_of(name)) for name in candidates if name in members]
    return Study(grades=grades, suite=chosen(grades), members=members)
