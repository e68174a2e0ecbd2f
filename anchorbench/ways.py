"""A study of training parts on one task: every part against its control, with paired seeds, at three initialization rates.

Rules, written before the runs:

- Every arm that changes how fast weights move is trained with the peak learning rate of its grid that has the lowest training
  loss on seeds of their own, at the middle gamma. Held-out answers never reach that choice. Controls of a schedule's area take
  the rate of the schedule that they are the control of.
- The effect of a part is the share of held-out answers composed at the last step, minus that of its control with the same seed,
  averaged over the three gammas; its interval (Student's) and p (paired t-test) are over seeds. Each of the task's six pairs of
  anchors is held out by two of the twelve seeds.
- Something is shown only where p stays below 0.05 after Holm's correction for the number of comparisons.
- Beside it stands the same difference at matched training loss: both trajectories are read where they first reach the higher of
  the two final losses, interpolated in the logarithm of the loss. It decides nothing.

Added after the runs, as the effects of seeds that hold out the same pair were seen to be correlated: p over the six pairs, each the
mean of its seeds. The pairs are all that this task has, so the rule above speaks of this task; p over pairs speaks of pairs of
anchors in general.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from anchorbench.claim import Measure, Number, Text
from anchorbench.claims.arms import file_name, train_sweep
from anchorbench.files import Plain, write_atomically
from anchorbench.machine import this_machine
from anchorbench.recipe import Recipe, flatten, parse_recipe
from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.runner import Sweep

BASE: Mapping[str, Any] = {
    "task": "composite",
    "variant": "heldout-pairs",
    "task_config": {"key_max": 59, "seq_len": 5},
    "model": {"d_model": 32, "d_head": 32, "d_ff": 128},
    "optimizer": {"weight_decay": 0.0, "warmup": 50},
    "batch": 64,
    "steps": 1200,
}
GAMMAS = (0.4, 0.5, 0.6)
"""On both sides of where AdamW turns from memorizing to inferring here, found on other seeds."""
SEEDS = 12
TUNING_SEEDS = (1000, 1001, 1002)
PAIRS = 6
"""Unordered pairs of different anchors: seeds hold them out in turn."""
SHOWN = 0.05
SMALLEST = 1e-12
"""Smaller losses count as this, as their logarithms are taken."""
Point = Mapping[str, Any]
"""An evaluation during training, as `Run.trajectory` gives it."""


READING = """
- Weight decay of 0.3 and Muon compose more than AdamW with as good a fit, at each of the three gammas and at matched
  loss: this is what the table shows best.
- A rate that stays high composes more: the constant one beats the cosine, although its peak is lower. Of `stable` and
  `k-decay` less is shown than the table seems to say: the straight line of the same area has a higher peak, at which it
  fits only half or three quarters of its runs.
- `decay 0.3, coupled`, `adashift`, `svrg` and `scale-invariant` hardly fit anything here within these steps and rates;
  their rows are about underfitting, and at matched loss nothing is left of the first three. That `scale-invariant`
  composes a little more than SGD at matched loss is at a loss where neither has learned the trained pairs.
- `layer-sharing` against one layer is depth: the latter does not fit.
- `split` answers as its control does, to 0.02: copies of a neuron get equal steps from Adam, and never part.
- Most arms chose the largest rate of their grid, so that a wider grid might change the order; the choice is by training
  loss, which is not what is compared. One task, one size, one number of steps.
- `dropout-r2` was added after all others had been trained and compared; arm and comparison were committed before its
  runs. Without its comparison the Holm correction of the others would be for 30 instead of 31.
"""
"""Our interpretation, written after the runs; it decides nothing."""


class Arm(NamedTuple):
    """One arm of the study: recipe fields that differ from `BASE`, and its peak learning rates."""

    fields: Mapping[str, Any]
    rates: tuple[float, ...] | str
    """Those that are tried, or the arm whose rate it takes."""


ADAM = (2e-3, 4e-3, 8e-3)
SIGN = (3e-4, 6e-4, 1.2e-3)
SGD = (0.05, 0.15, 0.5)


def _schedule(**fields: Any) -> dict[str, Any]:
    return {"optimizer.schedule": fields}


def _area(shape: str, **fields: Any) -> dict[str, Any]:
    return {"optimizer.schedule": {"kind": "matched", "shape": shape, "of": fields}}


def _optimizer(kind: str, **fields: Any) -> dict[str, Any]:
    return {"optimizer": {**BASE["optimizer"], "kind": kind, **fields}}


K_DECAY: Mapping[str, Any] = {"kind": "k-decay", "k": 3.0}
CHEBYSHEV: Mapping[str, Any] = {"kind": "chebyshev"}
RESTARTS: Mapping[str, Any] = {"kind": "restarts", "period": 164, "growth": 2.0}
STABLE: Mapping[str, Any] = {"kind": "stable", "decay": 0.2}

ARMS: Mapping[str, Arm] = {
    "adamw": Arm({}, ADAM),
    # Optimizers
    "amsgrad": Arm(_optimizer("amsgrad"), ADAM),
    "adashift": Arm(_optimizer("adashift"), ADAM),
    "lion": Arm(_optimizer("lion"), SIGN),
    "muon": Arm(_optimizer("muon"), ADAM),
    "sgd": Arm(_optimizer("sgd"), SGD),
    "nesterov": Arm(_optimizer("sgd", nesterov=True), SGD),
    "normalized-sgd": Arm(_optimizer("normalized-sgd"), ADAM),
    "grafting": Arm(_optimizer("grafting"), ADAM),
    # Schedules
    "constant": Arm(_schedule(kind="constant"), ADAM),
    "k-decay": Arm(_schedule(**K_DECAY), ADAM),
    "linear of k-decay's area": Arm(_area("linear", **K_DECAY), "k-decay"),
    "chebyshev": Arm(_schedule(**CHEBYSHEV), ADAM),
    "constant of chebyshev's area": Arm(_area("constant", **CHEBYSHEV), "chebyshev"),
    "restarts": Arm(_schedule(**RESTARTS), ADAM),
    "linear of restarts' area": Arm(_area("linear", **RESTARTS), "restarts"),
    "stable": Arm(_schedule(**STABLE), ADAM),
    "linear of stable's area": Arm(_area("linear", **STABLE), "stable"),
    # Decay, clipping, estimator
    "decay 0.3": Arm({"optimizer.weight_decay": 0.3}, ADAM),
    "decay 0.3, coupled": Arm({"optimizer.weight_decay": 0.3, "optimizer.decay": "coupled"}, ADAM),
    "unclipped": Arm({"optimizer.clip": "none"}, ADAM),
    "svrg": Arm({"estimator": "svrg"}, ADAM),
    "l1": Arm({"penalties": [{"kind": "l1", "strength": 1e-5}]}, ADAM),
    # Noise, and its penalties
    "dropout": Arm({"noise": {"kind": "dropout"}}, ADAM),
    "dropout of the last layer": Arm({"noise": {"kind": "dropout", "embedding": 0.0, "residual": 0.0, "final": 0.1}}, ADAM),
    "dropout-r1": Arm({"penalties": [{"kind": "dropout-r1"}]}, ADAM),
    "dropout-r2": Arm({"penalties": [{"kind": "dropout-r2"}]}, ADAM),
    # Models
    "post-LN": Arm({"model.norm": "post"}, ADAM),
    "rms-norm": Arm({"model.kind": "rms-norm"}, ADAM),
    "layer-sharing": Arm({"model.kind": "layer-sharing"}, ADAM),
    "one layer": Arm({"model.n_layer": 1}, ADAM),
    "border-tokens": Arm({"model.kind": "border-tokens"}, ADAM),
    "scale-invariant": Arm(
        {
            "model": {**BASE["model"], "kind": "scale-invariant"},
            **_optimizer("sgd", momentum=0.0, weight_decay=1e-3, clip={"kind": "relative"}),
        },
        (0.5, 1.5, 5.0),
    ),
    # Growth
    "split": Arm({"model.d_ff": 64, "growth": [{"kind": "split", "at": 600}]}, ADAM),
    "half the neurons": Arm({"model.d_ff": 64}, ADAM),
}

COMPARISONS: Sequence[tuple[str, str]] = (
    *((name, "adamw") for name in ("amsgrad", "adashift", "lion", "muon", "sgd", "grafting")),
    ("nesterov", "sgd"),
    ("normalized-sgd", "sgd"),
    ("constant", "adamw"),
    ("k-decay", "linear of k-decay's area"),
    ("chebyshev", "constant of chebyshev's area"),
    ("restarts", "linear of restarts' area"),
    ("stable", "linear of stable's area"),
    ("decay 0.3", "adamw"),
    ("decay 0.3, coupled", "decay 0.3"),
    *((name, "adamw") for name in ("unclipped", "svrg", "l1", "dropout", "dropout of the last layer")),
    ("dropout-r1", "adamw"),
    ("dropout-r2", "adamw"),
    ("dropout of the last layer", "dropout-r1"),
    *((name, "adamw") for name in ("post-LN", "rms-norm", "border-tokens", "layer-sharing")),
    ("layer-sharing", "one layer"),
    ("scale-invariant", "sgd"),
    ("split", "adamw"),
    ("split", "half the neurons"),
)
"""Each part and its control."""


Chance = Annotated[float, Field(ge=0, le=1)]


class Effect(Plain):
    """What a part does to the share of held-out answers composed, against its control."""

    part: Text
    control: Text
    rates: tuple[Number, Number]
    """Their peak learning rates."""
    fit: tuple[Chance, Chance]
    """The share of runs of each that are not underfit."""
    composed: tuple[Chance, Chance]
    """Their mean share of held-out answers composed."""
    effect: Measure
    by_gamma: dict[str, Measure]
    p: Chance
    p_holm: Chance
    """After Holm's correction for all comparisons of the table."""
    p_pairs: Chance
    """Over pairs instead of seeds, without correction."""
    matched: Measure | None
    """The effect at matched training loss; None if too many pairs have no loss in common."""

    @property
    def shown(self) -> bool:
        """Whether there is an effect, by the rule."""
        return self.p_holm < SHOWN


class Study(Plain):
    """The table, with what it took."""

    base: dict[str, Any]
    gammas: list[Number]
    seeds: int = Field(ge=2, le=10_000)
    effects: list[Effect]
    machine: dict[str, Any]


def recipe_of(arm: str, rate: float) -> Recipe:
    """The recipe of an arm at this peak learning rate."""
    return parse_recipe(dict(BASE)).override(dict(ARMS[arm].fields)).override({"optimizer.lr": rate})


def study(out: Path, report: Callable[[str], None] = lambda sentence: None) -> Study:
    """Trains what is missing in `out`, two folders per arm, and compares. Raises ValueError as `run_sweep` does."""
    rates: dict[str, float] = {}
    runs: dict[str, list[Run]] = {}
    for number, (name, arm) in enumerate(ARMS.items(), 1):
        rates[name] = rates[arm.rates] if isinstance(arm.rates, str) else _best_rate(name, arm.rates, out)
        axes = {"init.gamma": GAMMAS, "seed": tuple(range(SEEDS))}
        runs[name] = train_sweep(Sweep(recipe_of(name, rates[name]), axes), out / "runs" / file_name(name))
        mean = np.mean([run.result.inferential or 0.0 for run in runs[name]])
        report(f"{number} of {len(ARMS)}: {name}, learning rate {rates[name]:g}, composes {mean:.2f}")
    effects = [compare(part, control, runs, rates) for part, control in COMPARISONS]
    corrected = holm([effect.p for effect in effects])
    effects = [effect.model_copy(update={"p_holm": p}) for effect, p in zip(effects, corrected, strict=True)]
    machine = this_machine("fp32", gpu=False, gradient="by arm").model_dump()
    return Study(base=dict(BASE), gammas=list(GAMMAS), seeds=SEEDS, effects=effects, machine=machine)


def compare(part: str, control: str, runs: Mapping[str, Sequence[Run]], rates: Mapping[str, float]) -> Effect:
    """The effect of a part, from the runs of both arms, each in the order of gammas and, within them, seeds."""
    from scipy import stats

    pair = (runs[part], runs[control])
    ends = [np.array([run.result.inferential or 0.0 for run in each]).reshape(len(GAMMAS), -1) for each in pair]
    gains = ends[0] - ends[1]
    by_seed = gains.mean(0)
    by_pair = np.array([by_seed[pair::PAIRS].mean() for pair in range(min(PAIRS, len(by_seed)))])

    def p_of(units: np.ndarray) -> float:
        paired: Any = stats.ttest_1samp(units, 0.0) if units.std() > 0 else None
        return float(units[0] == 0.0) if paired is None else float(paired.pvalue)

    p = p_of(by_seed)
    shares = [matched(one.trajectory(), other.trajectory()) for one, other in zip(*pair, strict=True)]
    both = np.array([math.nan if share is None else share[0] - share[1] for share in shares]).reshape(len(GAMMAS), -1)
    complete = np.nanmean(both, 0) if not np.isnan(both).all(0).any() else None
    return Effect(
        part=part,
        control=control,
        rates=(rates[part], rates[control]),
        fit=_pair(np.mean([run.result.verdict != "underfit" for run in each]) for each in pair),
        composed=_pair(end.mean() for end in ends),
        effect=Measure.of(by_seed),
        by_gamma={f"{gamma:g}": Measure.of(gains[at]) for at, gamma in enumerate(GAMMAS)},
        p=p,
        p_holm=p,
        p_pairs=p_of(by_pair),
        matched=None if complete is None else Measure.of(complete),
    )


def matched(one: Sequence[Point], other: Sequence[Point]) -> tuple[float, float] | None:
    """The shares composed by two runs where each first reaches the higher of their final losses; None if one has diverged."""
    first, second = one[-1]["loss"], other[-1]["loss"]
    if first is None or second is None:
        return None
    target = max(first, second, SMALLEST)
    return _share_at(one, target), _share_at(other, target)


def _share_at(points: Sequence[Point], loss: float) -> float:
    """The share composed where the loss first falls to this, which it does: between evaluations, linear in its logarithm."""
    at = next(number for number, point in enumerate(points) if point["loss"] <= loss)
    shares = [point["inferential"] for point in points[max(0, at - 1) : at + 1]]
    losses = [-math.log(max(point["loss"], SMALLEST)) for point in points[max(0, at - 1) : at + 1]]
    return float(np.interp(-math.log(loss), losses, shares))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for how many they are (Holm, 1979)."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, at in enumerate(np.argsort(p).tolist()):
        largest = max(largest, min(1.0, (len(p) - rank) * p[at]))
        corrected[at] = largest
    return corrected


def _best_rate(name: str, rates: tuple[float, ...], out: Path) -> float:
    sweep = Sweep(recipe_of(name, rates[0]).override({"init.gamma": GAMMAS[1]}), {"optimizer.lr": rates, "seed": TUNING_SEEDS})
    losses: dict[float, float] = dict.fromkeys(rates, 0.0)
    for run in train_sweep(sweep, out / "rates" / file_name(name)):
        loss = run.trajectory()[-1]["loss"]
        losses[run.recipe.optimizer.lr] += math.inf if loss is None else math.log(max(loss, SMALLEST))
    return min(losses, key=losses.__getitem__)


def _pair(values: Any) -> tuple[float, float]:
    first, second = (float(value) for value in values)
    return first, second


def write(found: Study, data: Path, page: Path) -> None:
    """Writes the study as JSON, and as a Markdown table."""
    write_atomically(data, (json.dumps(found.model_dump(mode="json"), indent=1) + "\n").encode())
    write_atomically(page, table(found).encode())


def table(found: Study) -> str:
    """The study as a Markdown page."""
    base = ", ".join(f"`{path}: {value}`" for path, value in flatten(found.base).items())
    over_pairs = dict(zip(map(id, found.effects), holm([effect.p_pairs for effect in found.effects]), strict=True))
    lasting = [f"{effect.part} (against {effect.control})" for effect in found.effects if over_pairs[id(effect)] < SHOWN]
    general = f"by that, {', '.join(lasting)} would be shown." if lasting else "by that, nothing would be shown."
    rows = [
        "# Training parts, each against its control",
        "",
        f"Runs of the composite task ({base}), at gamma {', '.join(f'{gamma:g}' for gamma in found.gammas)}, with {found.seeds}"
        f" paired seeds; the task's {PAIRS} pairs of anchors are held out in turn, each by {found.seeds // PAIRS} of them."
        " `anchorbench ways OUT` trains them and writes this page; the rules are in `anchorbench/ways.py` and were written before"
        " the runs, p over pairs after them.",
        "",
        "An effect is the share of held-out answers composed at the end, minus the control's, averaged over the three gammas; its"
        f" 95% interval (Student's) is over seeds, and p is corrected for all {len(found.effects)} comparisons (Holm). *At matched"
        " loss* is the same difference where both first reach the higher of their final training losses: it tells a part that"
        " changes what is learned from one that changes how far training gets. *Fit* is the share of runs that are not underfit.",
        "",
        f"Effects of seeds that hold out the same pair are correlated, so the intervals hold for this task and its {PAIRS} pairs."
        f" *p over pairs* treats these as a sample of possible pairs of anchors (n = {PAIRS}, also Holm-corrected): {general}",
        "",
        "| part | control | effect | p (Holm) | p over pairs | at matched loss | composed | fit | peak rate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for effect in sorted(found.effects, key=lambda effect: -effect.effect.value):
        strong = "**" if effect.shown else ""
        p, p_pairs = ("< 0.001" if value < 0.001 else f"{value:.3f}" for value in (effect.p_holm, over_pairs[id(effect)]))
        matched = "-" if effect.matched is None else _interval(effect.matched)
        two = [f"{one:.2f} / {other:.2f}" for one, other in (effect.composed, effect.fit)]
        rates = " / ".join(f"{rate:g}" for rate in effect.rates)
        rows.append(
            f"| {strong}{effect.part}{strong} | {effect.control} | {strong}{_interval(effect.effect)}{strong} | {p} | {p_pairs}"
            f" | {matched} | {two[0]} | {two[1]} | {rates} |"
        )
    shown = [effect for effect in found.effects if effect.shown]
    quiet = [effect for effect in found.effects if not effect.shown]
    rows += ["", "## What is shown of this task", ""]
    rows += [f"- {_sentence(effect, found)}" for effect in sorted(shown, key=lambda effect: -effect.effect.value)] or ["Nothing."]
    rows += ["", "Nothing is shown, at this scale and with these seeds, of "]
    rows[-1] += "; ".join(f"{effect.part} (against {effect.control})" for effect in quiet) + "."
    rows += [
        "",
        "## Reading, after the runs",
        READING.rstrip(),
        "",
        "## By gamma",
        "",
        "| part | control | " + " | ".join(f"{gamma:g}" for gamma in found.gammas) + " |",
    ]
    rows.append("|---|---|" + "---|" * len(found.gammas))
    for effect in found.effects:
        cells = " | ".join(_interval(measure) for measure in effect.by_gamma.values())
        rows.append(f"| {effect.part} | {effect.control} | {cells} |")
    return "\n".join(rows) + "\n"


def _interval(measure: Measure) -> str:
    return f"{measure.value:+.2f} ({measure.low:+.2f} to {measure.high:+.2f})"


def _sentence(effect: Effect, found: Study) -> str:
    direction = "more" if effect.effect.value > 0 else "less"
    said = f"{effect.part} composes {direction} than {effect.control}: {_interval(effect.effect)}, n = {found.seeds} seeds"
    if effect.matched is None:
        return f"{said}; at matched loss it cannot be compared."
    kept = effect.matched.low * effect.effect.value > 0 and effect.matched.high * effect.effect.value > 0
    return f"{said}; at matched training loss {'as well' if kept else 'that is not shown'} ({_interval(effect.matched)})."
