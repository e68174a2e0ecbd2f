"""Grafting: SGD with fixed rates per tensor in Adam's place ("Learning Rate Grafting", OpenReview FpKgG31Z_i9; 2002.11803).

A grafted step is as long as Adam's in each tensor, in the direction of SGD. The ratios of both lengths in the first steps are
measured, and their medians become fixed rates of SGD, which has nothing adaptive left. That rates are medians is our choice, as
the paper's recipe was not at hand; that its abstract is about fixed corrections per layer is from memory.

The controls ask what a rate for each tensor is needed for: one rate, measured in the same way over all weights together, and SGD
with the best single rate of a grid. Pilot runs on other seeds chose the grid and showed, over fewer steps, that a single rate can
train this model as well; so the controls were expected to come close, and they decide nothing.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from anchorbench.claim import Claim, Curve, Experiment, Findings, Measure, Panel, Verdict, above, all_of, claims
from anchorbench.claims.trained import Shares, train
from anchorbench.recipe import Recipe, parse_recipe
from anchorbench.train.optimizers.grafted_sgd import median_rates
from anchorbench.train.stack import Stack

MARGIN = 0.05
"""Accuracy by which SGD may be behind Adam and still count as equal."""
APART = 0.5
"""Accuracy by which it has to be ahead of SGD at Adam's rate, for that not to have trained."""
ADAM, SGD, GRAFTED, FIXED, ONE, TUNED = (
    "Adam",
    "SGD, Adam's rate",
    "grafting",
    "SGD, rates per tensor",
    "SGD, one rate",
    "SGD, tuned",
)


class Settings(Experiment):
    """A recipe of Adam, from which all others take everything but the optimizer."""

    recipe: dict[str, Any]
    """Fields of a recipe."""
    measured: int = Field(ge=1, le=100_000)
    """First steps over which ratios are measured."""
    grid: Annotated[list[Annotated[float, Field(gt=0, le=100)]], Field(min_length=1, max_length=100)]
    """Learning rates of SGD, of which the best on average over these very seeds is taken: a choice in favour of the control."""
    looks: int = Field(ge=2, le=100)
    """Evaluations during training, evenly spaced, for the plot."""


def settings_of(seeds: int, recipe: dict[str, Any], steps: int, batch: int) -> Settings:
    """Both scales have one grid, one learning rate of Adam, and no decay, which no length contains."""
    way = {"lr": 3e-3, "weight_decay": 0.0, "warmup": 0}
    return Settings(
        seeds=seeds,
        recipe={"task": "composite", **recipe, "optimizer": way, "batch": batch, "steps": steps},
        measured=200,
        grid=[0.03, 0.06, 0.1, 0.2, 0.4],
        looks=10,
    )


@claims.register
class Grafting(Claim):
    """See the module."""

    name = "grafting"
    paper = (
        "Agarwal, Anil, Hazan, Koren and Zhang, Learning Rate Grafting (OpenReview FpKgG31Z_i9; 2002.11803 as AdaGraft), abstract"
    )
    statement = (
        "With one fixed rate for each tensor, measured as Adam's step length over SGD's in the first steps, SGD trains a"
        " transformer as well as Adam with no search over rates, where SGD at Adam's rate does not train."
    )
    ground = (
        "A small GPT on the composite task (40 keys), accuracy at unseen keys and positions at the end of training. All arms"
        " share weights, data, order and schedule by seed; SGD has momentum 0.9. Rates are medians over the first 200 steps of a"
        " grafted run of the same seed, and training then begins anew. Two controls: one rate measured over all weights"
        " together, and the best single rate of a grid, chosen on these very seeds. Adam's rate was not tuned. The paper's"
        " ground is BERT, which is not tried; the paper scale here is the benchmark's usual GPT and number of steps."
    )
    measures = {
        "to_adam": "accuracy of SGD with measured rates per tensor minus that of Adam",
        "over_sgd": "accuracy of SGD with measured rates per tensor minus that of SGD at Adam's rate",
        "over_tuned": "the same minus that of SGD with the best single rate of the grid",
        "over_one": "the same minus that of SGD with one measured rate",
        "tuned_to_adam": "accuracy of SGD with the best single rate minus that of Adam",
        "grafted_to_adam": "accuracy of grafting, whose rates are measured at every step, minus that of Adam",
        "accuracy": "accuracy of SGD with measured rates per tensor",
        "tuned_rate": "the best single rate of SGD on the grid",
        "one_rate": "the measured single rate, times Adam's rate",
        "spread": "log10 of the largest over the smallest measured rate of a matrix",
    }
    rule = (
        "It replicates if the interval of over_sgd lies above 0.5, as SGD at Adam's rate should hardly train at all, and that of"
        " to_adam above -0.05, five points of accuracy that count as equal. It does not if one of them lies on the other side;"
        " else it cannot be told. The controls decide nothing, as the claim is about a search that is spared, not about what a"
        " search would find."
    )
    reading = (
        "That SGD trains with measured rates and not at Adam's rate is clear; that it trains as well as Adam is not told, for a few"
        " seeds end far behind. About 480 seeds would tell the measured difference from five points. What the controls say"
        " matters more: one measured rate for all tensors, and the best single rate of the grid, do no worse, although the"
        " measured rates of matrices span a factor of 19. On this ground SGD lacks a rate some twenty times Adam's, not one for"
        " each tensor. Grafting itself, with lengths measured at every step, ends where Adam does, within four points."
    )
    seconds = 200
    scales = {
        "laptop": settings_of(
            seeds=12,
            recipe={"task_config": {"key_max": 59, "seq_len": 5}, "model": {"d_model": 32, "d_head": 32, "d_ff": 128}},
            steps=1500,
            batch=32,
        ),
        "paper": settings_of(seeds=24, recipe={}, steps=2500, batch=128),
    }

    settings: Settings

    def run(self) -> Findings:
        settings = self.settings
        base = parse_recipe(settings.recipe)
        ends: dict[str, np.ndarray] = {}
        paths: dict[str, np.ndarray] = {}
        at: list[int] = []
        passes = 0

        def arm(name: str, ways: list[dict[str, Any]]) -> Stack:
            """Trains every seed with its way of these."""
            nonlocal passes, at
            stack = Stack([with_optimizer(base, way).override({"seed": seed}) for seed, way in enumerate(ways)])
            at = train(stack, settings.looks)
            passes += base.steps * len(ways)
            shares = Shares.of(stack, 1)
            ends[name], paths[name] = shares.accuracy[0], shares.accuracies[0]
            return stack

        def measured(by: str, name: str) -> list[list[tuple[str, float]]]:
            """Each seed's median ratios."""
            stack = arm(name, [{"kind": "grafting", "measure": settings.measured, "by": by}] * settings.seeds)
            return [
                median_rates(run_id, stack.state_of(seed), settings.measured).rates for seed, run_id in enumerate(stack.run_ids)
            ]

        arm(ADAM, [{}] * settings.seeds)
        arm(SGD, [{"kind": "sgd"}] * settings.seeds)
        per_tensor, single = measured("tensor", GRAFTED), measured("global", "grafting, all weights together")
        for name, rates in ((FIXED, per_tensor), (ONE, single)):
            arm(name, [{"kind": "grafted-sgd", "rates": each} for each in rates])
        for rate in settings.grid:
            arm(f"SGD {rate}", [{"kind": "sgd", "lr": rate}] * settings.seeds)
        best = max(settings.grid, key=lambda rate: ends[f"SGD {rate}"].mean())
        ends[TUNED], paths[TUNED] = ends[f"SGD {best}"], paths[f"SGD {best}"]

        fixed = ends[FIXED]
        logs = [np.log10([rate for name, rate in rates if is_matrix(name) and rate > 0]) for rates in per_tensor]
        measures = {
            "to_adam": Measure.of(fixed - ends[ADAM]),
            "over_sgd": Measure.of(fixed - ends[SGD]),
            "over_tuned": Measure.of(fixed - ends[TUNED]),
            "over_one": Measure.of(fixed - ends[ONE]),
            "tuned_to_adam": Measure.of(ends[TUNED] - ends[ADAM]),
            "grafted_to_adam": Measure.of(ends[GRAFTED] - ends[ADAM]),
            "accuracy": Measure.of(fixed),
            "tuned_rate": Measure.exact(best),
            "one_rate": Measure.of([rates[0][1] * base.optimizer.lr for rates in single]),
            "spread": Measure.of([np.ptp(each) for each in logs]),
        }
        lines = [
            Curve.over_units(name, at, paths[name], share=True, dashed=name in (ONE, TUNED))
            for name in (ADAM, SGD, GRAFTED, FIXED, ONE, TUNED)
        ]
        grid = Curve.over_units("one rate", settings.grid, np.array([ends[f"SGD {rate}"] for rate in settings.grid]).T, share=True)
        title = "accuracy at unseen keys and positions"
        panels = [
            Panel(title=title, x="step", y="share of answers", curves=lines),
            Panel(
                title="SGD over single rates (line: rates per tensor)",
                x="learning rate",
                y="share of answers",
                log_x=True,
                level=float(fixed.mean()),
                curves=[grid],
            ),
        ]
        return Findings(measures, panels, passes)

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        return all_of(above(measures["over_sgd"], APART), above(measures["to_adam"], -MARGIN))


def with_optimizer(base: Recipe, way: Mapping[str, Any]) -> Recipe:
    """The recipe with another optimizer of the same rate, decay and schedule, but for the fields that are given."""
    common = {name: getattr(base.optimizer, name) for name in ("lr", "weight_decay", "warmup", "schedule", "end", "clip")}
    return base.override({"optimizer": {**common, **way}})


def is_matrix(name: str) -> bool:
    """Whether a tensor of this name is one: neither a bias nor a norm's gain."""
    return "bias" not in name and "norm" not in name
