"""Grades the forecast on kinds of runs that its interval was not fitted on, and where it could be fooled.

Rules, written before these runs were read. The forecast was developed on the same sweeps with seeds 100 to 171: how sites are
combined, and `MARGIN`, by which the intervals of runs unlike the cradle's have to be wider (without it, 0.84 of the 268 holdouts of
those seeds were covered; with it, 0.90). Since then nothing was changed, and all seeds are new.

- The width of the interval is fitted on `CRADLE` alone (pre-LN, two layers, width 32, AdamW, `composite`), and multiplied by the
  margin.
- Every other sweep is a holdout. A run is graded if it fits, at the end of training, and apart from that at step `EARLY`. Runs
  whose forecast abstains are counted, not graded.
- Coverage of the 90% interval should be 85% to 95%, and the mean absolute error at most 0.12, over all holdouts with a rule.
- Skill is over a guess that knows the recipe's outcome: the mean of its other seeds. It should be positive, with an interval above
  zero, within pre-LN and within post-LN.
- A fitted model without the rule (`no-rule`, `other-rule`) fools the forecast if more than a quarter is forecast, and the interval
  excludes what the model composes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anchorbench.inspect import statistics
from anchorbench.inspect.classify import classify
from anchorbench.inspect.forecast import Forecast, Widths, fit_widths, forecasts, load_widths
from anchorbench.inspect.foreign import KINDS, STEPS, train_foreign
from anchorbench.inspect.open_model import open_model, open_runs, side_by_side
from anchorbench.inspect.planted import key_to_anchors, key_to_anchors_lookup, pair_lookup, rotated, with_noise
from anchorbench.inspect.recombine import find_sites, find_squares, recombined_answers
from anchorbench.recipe import SEEDS, Recipe, parse_recipe
from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.runner import Progress, Sweep, SweepFolder, run_sweep
from anchorbench.task import Task, load_task
from anchorbench.train.execution import Execution
from anchorbench.verdict import FEW, EvalSet

BASE: Mapping[str, Any] = {
    "task": "composite",
    "variant": "heldout-pairs",
    "task_config": {"key_max": 59, "seq_len": 6},
    "model": {"d_model": 32, "d_head": 32, "d_ff": 128},
    "optimizer": {"lr": 8e-3, "weight_decay": 0.0, "warmup": 50},
    "batch": 64,
    "steps": 1200,
}
SMALL: Mapping[str, Any] = {"key_min": 10, "key_max": 24, "vocab_size": 32, "modulus": 3, "offsets": {1: 2, 2: 1, 3: -1, 4: -2}}
GAMMAS = (0.4, 0.5, 0.6)
FIRST_SEED = 300
CRADLE = ("cradle", "cradle-decay")
"""The sweeps on which the widths are fitted."""
WITHOUT_RULE = ("no-rule", "other-rule")
EARLY = 600
"""Step at which weights are kept and graded too."""
MEMBERS = 8
"""Members read at once."""


@dataclass(frozen=True)
class Trial:
    """What `validate` runs; the defaults are those of the full validation."""

    sweeps: Mapping[str, Sweep]
    shipped: bool = False
    """Whether the shipped widths are graded, instead of new ones fitted on the cradle."""
    foreign_seeds: tuple[int, ...] = (FIRST_SEED, FIRST_SEED + 1)
    foreign_steps: int = STEPS
    task: Task = field(default_factory=lambda: load_task("composite", **SMALL))
    """Task of the planted models, whose width grows with its vocabulary."""
    noises: tuple[float, ...] = (0.0, 0.03)
    """Noise on planted weights, relative to each matrix's root mean square."""
    planted_seeds: int = 1


def full_trial() -> Trial:
    """New widths, graded on all holdouts."""
    return Trial(sweeps())


def quick_trial() -> Trial:
    """The shipped widths, graded on four runs of other seeds: a minute on two cores."""
    base = parse_recipe(dict(BASE))
    quick = {
        norm: Sweep(base.override({"model.norm": norm}), {"init.gamma": (0.5,), "seed": (200, 201)}) for norm in ("pre", "post")
    }
    return Trial(quick, shipped=True, foreign_seeds=(), noises=(0.0, 0.03), planted_seeds=1)


def sweeps() -> dict[str, Sweep]:
    """Name -> sweep: the cradle, and holdouts by norm, depth, width, heads, activation, optimizer, schedule and task."""
    base = parse_recipe(dict(BASE))
    model: dict[str, Any] = dict(BASE["model"])

    def over(seeds: int, changes: Mapping[str, Any], base: Recipe = base) -> Sweep:
        return Sweep(base.override(changes), {"init.gamma": GAMMAS, "seed": tuple(range(FIRST_SEED, FIRST_SEED + seeds))})

    def wide(width: int, rate: float) -> dict[str, Any]:
        shape = {"d_model": width, "d_head": width, "d_ff": 4 * width}
        return {"model": model | shape, "optimizer.lr": rate, "steps": 1800}

    def task(name: str, variant: str, **changes: Any) -> dict[str, Any]:
        return {"task": name, "variant": variant, "steps": 2400, **changes}

    permutations = {"lr": 3e-3, "weight_decay": 0.3, "warmup": 50, "schedule": {"kind": "constant"}}
    laptop = parse_recipe({"variant": "heldout-pairs", "optimizer": {"weight_decay": 0.0}, "steps": 2500})
    return {
        "cradle": over(12, {}),
        "cradle-decay": over(12, {"optimizer.weight_decay": 0.3}),
        "post": over(12, {"model.norm": "post"}),
        "post-decay": over(6, {"model.norm": "post", "optimizer.weight_decay": 0.3}),
        "layers-3": over(6, {"model.n_layer": 3}),
        "layers-4": over(6, {"model.n_layer": 4}),
        "heads-4": over(6, {"model": model | {"n_head": 4, "d_head": 8}}),
        "relu": over(6, {"model.activation": "relu"}),
        "width-64": over(6, wide(64, 2e-3)),
        "width-128": over(4, wide(128, 1e-3)),
        "muon": over(6, {"optimizer": {"kind": "muon", "lr": 8e-3, "weight_decay": 0.0, "warmup": 50}}),
        "constant": over(6, {"optimizer.schedule": {"kind": "constant"}, "optimizer.lr": 4e-3}),
        "conflict-control": over(5, {"variant": "conflict-control"}),
        "anchors-first": over(4, task("composition", "anchors-first", **{"optimizer.lr": 4e-3})),
        "nine-anchors": over(4, task("nine-anchors", "heldout-ten")),
        "full-symmetry": over(4, task("full-symmetry", "default")),
        "ten-anchors": over(4, task("ten-anchors", "intervals")),
        "two-anchors": over(4, task("two-anchors", "overlap", steps=1200)),
        "random-permutations": over(3, task("random-permutations", "default", task_config={}, steps=6000, optimizer=permutations)),
        "no-rule": over(4, {"variant": "no-rule", "optimizer.lr": 4e-3, "steps": 4800}),
        "other-rule": over(4, {"variant": "other-rule"}),
        "laptop": over(6, {}, laptop),
    }


@dataclass(frozen=True)
class Read:
    """What was read from one fitted or underfit model, before any width is fitted."""

    holdout: str
    label: str
    """The run, or the kind and seed of a foreign model."""
    recipe: str
    norm: str
    step: int | None
    """None at the end of training."""
    composed: float
    fits: bool
    forecast: Forecast
    """With an interval of no width where it does not abstain."""
    repeats: float | None = None
    """Share of answers to the mirror of a trained exception that repeat it."""


NO_WIDTH = Widths(constant=0, infidelity=0, spread=0, disagreement=0, runs=10)


def recipe_of(run: Run) -> str:
    """The run's recipe without its seeds, as text."""
    return json.dumps(run.recipe.model_dump(mode="json") | dict.fromkeys(SEEDS), sort_keys=True)


def read_runs(holdout: str, runs: Sequence[Run], step: int | None = None) -> list[Read]:
    """Reads all runs, optionally at an intermediate step whose weights were kept; what is composed there is measured."""
    alike: dict[Any, list[Run]] = {}
    for run in runs:
        alike.setdefault((run.recipe.model, run.result.task_fingerprint), []).append(run)
    found: list[Read] = []
    for every in alike.values():
        task = every[0].recipe.load_task()
        for start in range(0, len(every), MEMBERS):
            part = every[start : start + MEMBERS]
            opened = open_runs(part, step)
            eval_set = EvalSet.of(task, 1000, FIRST_SEED)
            answers = opened.answers(eval_set.tokens)
            for run, row, forecast in zip(part, answers, forecasts(opened, task, NO_WIDTH), strict=True):
                behaviour = eval_set.behaviour(row)
                found.append(
                    Read(
                        holdout,
                        label=run.result.run_id,
                        recipe=f"{holdout} {step} {recipe_of(run)}",
                        norm=run.recipe.model.norm,
                        step=step,
                        composed=behaviour.inferential or 0.0,
                        fits=behaviour.fit,
                        forecast=forecast,
                        repeats=None if behaviour.symmetric is None else behaviour.symmetric.value,
                    )
                )
    return found


def read_foreign(out: Path, trial: Trial, report: Callable[[str], None]) -> list[Read]:
    """Trains and reads models of other architectures, each kind with other held-out pairs."""
    found: list[Read] = []
    for seed in trial.foreign_seeds:
        for number, kind in enumerate(KINDS):
            base = load_task("composite", "heldout-pairs", **BASE["task_config"])
            task = base.for_seed(seed + 2 * number)
            report(f"{kind}, seed {seed}")
            folder = train_foreign(kind, task, seed, out / "foreign" / f"{kind}-{seed}", trial.foreign_steps)
            opened = open_model(str(folder))
            behaviour = classify(opened, task)
            [forecast] = forecasts(opened, task, NO_WIDTH)
            found.append(
                Read(kind, f"{kind}, seed {seed}", kind, "pre", None, behaviour.inferential or 0.0, behaviour.fit, forecast)
            )
    return found


def fit(reads: Sequence[Read]) -> Widths:
    """Fits the widths on the fitted models whose forecast does not abstain. Raises ValueError if they are fewer than 10."""
    chosen = [(read.forecast.found, read.composed) for read in reads if read.fits and read.forecast.found]
    return fit_widths([found for found, _ in chosen], [composed for _, composed in chosen])


def row_of(read: Read, widths: Widths) -> dict[str, Any]:
    """A read model as a row of docs/validation.json."""
    forecast = read.forecast
    share = None if forecast.found is None else widths.around(forecast.found)
    return {
        "holdout": read.holdout,
        "run": read.label,
        "recipe": read.recipe,
        "norm": read.norm,
        "step": read.step,
        "composed": read.composed,
        "fits": read.fits,
        "forecast": None if share is None else share.value,
        "low": None if share is None else share.low,
        "high": None if share is None else share.high,
        "name": "cannot be told" if share is None else share.name(),
        "fidelity": forecast.fidelity,
        "disagreement": None if forecast.found is None else forecast.found.disagreement,
        "repeats": read.repeats,
        "forecast_repeats": None if forecast.symmetric is None else forecast.symmetric.value,
    }


def grade(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Coverage, error, skill and rank correlation of the forecasts that were made for fitted models, and how many abstained."""
    fitted = [row for row in rows if row["fits"]]
    graded = [row for row in fitted if row["forecast"] is not None]
    found: dict[str, Any] = {"fitted": len(fitted), "abstained": len(fitted) - len(graded)}
    if not graded:
        return found
    composed, forecast, low, high = (
        np.array([row[name] for row in graded], float) for name in ("composed", "forecast", "low", "high")
    )
    recipes = [row["recipe"] for row in graded]
    guess = statistics.other_seeds(composed, recipes)
    known = ~np.isnan(guess)
    of_known = [recipe for recipe, take in zip(recipes, known, strict=True) if take]
    return found | {
        "composed": float(composed.mean()),
        "coverage": statistics.coverage(low, high, composed, recipes),
        "error": statistics.error(forecast, composed, recipes),
        "guess_error": statistics.error(guess[known], composed[known], of_known) if known.any() else None,
        "skill": statistics.skill(forecast[known], guess[known], composed[known], of_known) if known.any() else None,
        "rank_within": statistics.rank_within(forecast, composed, recipes),
    }


def fooled(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many fitted models without the rule fool the forecast, and the largest forecast."""
    fitted = [row for row in rows if row["fits"]]
    graded = [row for row in fitted if row["forecast"] is not None]
    wrong = [row for row in graded if row["forecast"] > FEW and not row["low"] <= row["composed"] <= row["high"]]
    return {
        "fitted": len(fitted),
        "abstained": len(fitted) - len(graded),
        "fooled": statistics.share(len(wrong), len(graded)),
        "largest": max((row["forecast"] for row in graded), default=0.0),
    }


def exceptions(rows: Sequence[Mapping[str, Any]]) -> statistics.Figure | None:
    """Mean absolute error of the forecast share of answers to an exception's mirror that repeat it; None without such runs."""
    asked = [row for row in rows if row["fits"] and row["repeats"] is not None and row["forecast_repeats"] is not None]
    if not asked:
        return None
    forecast, repeats = (np.array([row[name] for row in asked]) for name in ("forecast_repeats", "repeats"))
    return statistics.error(forecast, repeats, [row["recipe"] for row in asked])


def planted(trial: Trial, widths: Widths) -> list[dict[str, Any]]:
    """Forecasts for planted circuits: the papers' two, and a lookup table behind the attention of the first; both norms, several
    noise levels, in a random basis; one row per model, with what it really composes.
    """
    task, rows = trial.task, []
    for plant in (key_to_anchors, pair_lookup, key_to_anchors_lookup):
        for norm in ("pre", "post"):
            for noise in trial.noises:
                models = [with_noise(rotated(plant(task, norm, seed), seed), noise, seed) for seed in range(trial.planted_seeds)]
                opened = side_by_side(models)
                eval_set = EvalSet.of(task, 500, 0)
                for row, found in zip(opened.answers(eval_set.tokens), forecasts(opened, task, widths), strict=True):
                    behaviour = eval_set.behaviour(row)
                    share = found.share
                    rows.append(
                        {"circuit": plant.__name__, "norm": norm, "noise": noise, "fits": behaviour.fit}
                        | {"composed": behaviour.inferential, "fidelity": found.fidelity, "name": found.name}
                        | {name: None if share is None else getattr(share, name) for name in ("value", "low", "high")}
                    )
    return rows


def controls(runs: Sequence[Run]) -> dict[str, float]:
    """What recombination gives where it should give nothing: mean share composed by runs of one shape and task.

    `whole` is the forecast itself; `fillers` recombines filler positions alone; `donor` puts in the streams of another run.
    """
    opened, other = open_runs(runs), open_runs([*runs[1:], runs[0]])
    task = runs[0].recipe.load_task()
    squares = find_squares(task, task.sample("ood", 240, FIRST_SEED), FIRST_SEED)
    sites = find_sites(opened, squares.first[0, :8])
    label = squares.examples.foils["inferential"]
    marks = np.stack(list(task.token_positions(squares.examples.tokens).values()), 1)
    free = np.array([[at for at in range(task.seq_len - 1) if at not in row][:1] or [0] for row in marks.tolist()])

    def composed(**how: Any) -> float:
        return float((recombined_answers(opened, squares, sites, **how) == label).mean())

    return {"whole": composed(), "fillers": composed(at=free), "donor": composed(donor=other)}


def validate(out: Path, report: Callable[[str], None], trial: Trial) -> dict[str, Any]:
    """Trains the missing models in `out`, and returns what `anchorbench probe validate --json` writes."""
    reads: list[Read] = []
    early: list[Read] = []
    first: list[Run] = []
    for name, sweep in trial.sweeps.items():
        report(f"{name}: {len(sweep.runs())} runs")

        def say(event: Progress) -> None:
            if event.message:
                report(event.message)

        runs = run_sweep(sweep, SweepFolder(out / name, sweep), say, Execution(keep_steps=() if trial.shipped else (EARLY,)))
        first = first or [run for run in runs if run.result.task_fingerprint == runs[0].result.task_fingerprint]
        reads += read_runs(name, runs)
        if not trial.shipped and name not in (*CRADLE, *WITHOUT_RULE):
            early += read_runs(name, runs, EARLY)
    reads += read_foreign(out, trial, report)
    widths = load_widths() if trial.shipped else fit([read for read in reads if read.holdout in CRADLE])
    report("planted circuits and controls")
    return summarize(reads, early, widths, planted(trial, widths), controls(first))


def summarize(
    reads: Sequence[Read], early: Sequence[Read], widths: Widths, plants: list[dict[str, Any]], controlled: dict[str, float]
) -> dict[str, Any]:
    """All grades, from everything that was read."""
    rows, early_rows = ([row_of(read, widths) for read in each] for each in (reads, early))
    asked = [row for row in rows if row["holdout"] not in (*CRADLE, *WITHOUT_RULE)]
    inside = [row for row in plants if row["fits"] and row["value"] is not None]
    covered = sum(row["low"] <= row["composed"] <= row["high"] for row in inside)
    holdouts = {name: [row for row in rows if row["holdout"] == name] for name in dict.fromkeys(read.holdout for read in reads)}
    return {
        "all": grade(asked),
        "pre": grade([row for row in asked if row["norm"] == "pre"]),
        "post": grade([row for row in asked if row["norm"] == "post"]),
        "early": grade(early_rows),
        "holdouts": {name: grade(of_holdout) for name, of_holdout in holdouts.items()},
        "without_rule": {name: fooled(holdouts.get(name, [])) for name in WITHOUT_RULE},
        "planted_covered": statistics.share(covered, len(inside)),
        "controls": controlled,
        "exception": exceptions(rows),
        "widths": widths.model_dump(mode="json"),
        "rows": [{name: value for name, value in row.items() if name != "recipe"} for row in rows],
        "planted": plants,
    }
