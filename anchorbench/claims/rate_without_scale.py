"""Does the initialization rate still matter where the function does not see the scale of the weights?

Transformers with small initial weights (a large rate gamma) compose anchors that they have never seen together, and those with
large ones do not (2405.05409; 2501.08537). If the reason is the size of the function's weights, gamma should make no difference
to a transformer whose encoder is scale-invariant (2202.00980): its function at the start is the same for every gamma. What is
left is how far the first steps turn the weights, which is more for smaller ones, until weight decay has brought all to the same
length.

gamma sets the scale of the encoder's matrices; the head, which is not scale-invariant, starts at gamma 0.5 always.

Pilot runs on other seeds chose how each model is trained and a range of gamma in which all fit. In them the plain transformer had
an effect in batches of 64, and none that showed in batches of 16 or 32; the scale-invariant one, by SGD on three seeds, composed
0.4 of held-out answers at gamma 0.3 and 0.7 at 0.5.

Version 1 compared the scale-invariant transformer by SGD with the plain one by Adam alone, and called the claim replicated. On
other seeds the plain one by the same SGD then had an effect too, in the opposite direction: version 2 has that arm inside, asks it
for the effect that the claim explains, and is run on seeds of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from anchorbench.claim import (
    CANNOT,
    DOES_NOT,
    REPLICATES,
    Claim,
    Curve,
    Experiment,
    Findings,
    Measure,
    Panel,
    Verdict,
    claims,
)
from anchorbench.claims.trained import Shares, scale_encoder, train
from anchorbench.recipe import parse_recipe
from anchorbench.train.stack import Stack

MARGIN = 0.2
"""A difference in the share composed that is smaller counts as none."""
FIT = 0.8
"""Mean accuracy on trained pairs that every arm of the rule has to reach: an underfit model is not asked whether it composes."""
USUAL = 0.5
"""The rate that weights are drawn at, before they are scaled."""
ARMS = {"plain": "plain, Adam", "same": "plain, SGD", "invariant": "scale-invariant, SGD"}
FIRST_SEED = 100


class Settings(Experiment):
    """Three recipes, and the rates that all start from."""

    plain: dict[str, Any]
    """Fields of the plain transformer's recipe."""
    same: dict[str, Any]
    """Fields of the plain one's, trained as the scale-invariant one."""
    invariant: dict[str, Any]
    """Fields of the scale-invariant one's."""
    gammas: Annotated[list[Annotated[float, Field(ge=-1, le=2)]], Field(min_length=2, max_length=12)]
    """Initialization rates; the first and the last are compared."""
    looks: int = Field(ge=2, le=100)
    """Evaluations during training, evenly spaced, for the plots."""

    @field_validator("gammas")
    @classmethod
    def _grows(cls, gammas: list[float]) -> list[float]:
        if gammas != sorted(set(gammas)):
            raise ValueError(f"is {gammas}; allowed: rates that grow")
        return gammas


def settings_of(seeds: int, gammas: list[float], task: dict[str, Any], model: dict[str, Any], longer: int) -> Settings:
    """Adam without decay for the plain transformer; SGD with decay and clipping as in 2202.00980 for the other."""
    adam = {"lr": 3e-3, "weight_decay": 0.0, "warmup": 0}
    way = {"kind": "sgd", "momentum": 0.0, "lr": 0.3, "warmup": 0, "schedule": "linear", "weight_decay": 0.003, "clip": "relative"}
    descent = {"optimizer": way, "batch": 16, "steps": 5000 * longer}
    return Settings(
        seeds=seeds,
        plain={**task, "model": {"activation": "relu", **model}, "optimizer": adam, "batch": 64, "steps": 2000 * longer},
        same={**task, "model": {"activation": "relu", **model}, **descent},
        invariant={**task, "model": {"kind": "scale-invariant", **model}, **descent},
        gammas=gammas,
        looks=10,
    )


@claims.register
class RateWithoutScale(Claim):
    """See the module."""

    name = "rate-without-scale"
    version = 2
    paper = (
        "Zhang et al., Complexity control facilitates reasoning-based compositional generalization in transformers (2501.08537),"
        " phase diagram over gamma, with the encoder of 2202.00980 as a control of our own"
    )
    statement = (
        "The initialization rate decides whether a transformer composes by the scale of its function's weights, so that it makes"
        " no difference to an encoder whose function does not see that scale."
    )
    ground = (
        "A small GPT on the composite task (40 keys, two pairs held out): the share of held-out pairs answered by composing at"
        " the end of training. The plain GPT is trained by Adam, as in its paper, and once more just as the scale-invariant one: by"
        " SGD with weight decay and relative clipping, in smaller batches and more steps. Gammas are compared within one model and"
        " one way of training. gamma scales the encoder's matrices alone, all of which have"
        " the draws of gamma 0.5 by seed; data and order are common. In the papers the head's scale follows gamma. The paper"
        " scale is the benchmark's usual GPT, a wider range of gamma and five times the steps."
    )
    measures = {
        "effect": "scale-invariant: share composed at the largest gamma minus that at the smallest",
        "effect_plain": "plain by Adam: share composed at the largest gamma minus that at the smallest",
        "effect_same": "plain by the same SGD: share composed at the largest gamma minus that at the smallest",
        "fit": "accuracy on trained pairs, mean over seeds, of the model and gamma where it is lowest",
        "less": "effect_plain minus effect",
        "composed": "scale-invariant: share composed at the largest gamma",
        "composed_plain": "plain by Adam: share composed at the largest gamma",
        "composed_same": "plain by the same SGD: share composed at the largest gamma",
    }
    rule = (
        "It replicates if the interval of effect lies between -0.2 and 0.2. It does not if it is not inside that range, but"
        " excludes 0: gamma matters without scale. Else, or if the intervals of effect_plain and effect_same do not both lie above"
        " 0, so that the effect to be explained is there under the same training too, or if fit is below 0.8, it cannot be told."
    )
    reading = (
        "What gamma does to a plain transformer depends on how it is trained: by Adam the larger rate composes more, by the SGD of"
        " the scale-invariant one it composes less. So there is no one effect that the scale of the function could explain, and"
        " that the scale-invariant model shows none within 0.2 says little about why the plain one does. Version 1, without the"
        " arm of the same training, had called this a replication."
    )
    seconds = 260
    scales = {
        "laptop": settings_of(
            seeds=10,
            gammas=[0.3, 0.5],
            task={"task": "composite", "task_config": {"key_max": 59, "seq_len": 5}},
            model={"d_model": 32, "n_head": 2, "d_head": 16, "d_ff": 64},
            longer=1,
        ),
        "paper": settings_of(
            seeds=24,
            gammas=[0.3, 0.4, 0.5, 0.6, 0.7],
            task={"task": "composite"},
            model={"n_head": 4, "d_head": 16},
            longer=5,
        ),
    }

    settings: Settings

    def run(self) -> Findings:
        settings, gammas = self.settings, self.settings.gammas
        shares: dict[str, Shares] = {}
        accuracies: list[Curve] = []
        passes = 0
        for arm, label in ARMS.items():
            stack = self.new_stack(getattr(settings, arm), gammas)
            at = train(stack, settings.looks)
            shares[arm] = found = Shares.of(stack, len(gammas))
            passes += stack.step * stack.requested
            done = (np.array(at) / at[-1]).tolist()
            for k, gamma in ((0, gammas[0]), (-1, gammas[-1])):
                line = f"{label}, gamma {gamma:g}"
                accuracies.append(Curve.over_units(line, done, found.accuracies[k], share=True, dashed=k == 0))
        effects = {arm: found.composed[-1] - found.composed[0] for arm, found in shares.items()}
        ends = np.concatenate([found.accuracy[[0, -1]] for found in shares.values()])
        measures = {
            "effect": Measure.of(effects["invariant"]),
            "effect_plain": Measure.of(effects["plain"]),
            "effect_same": Measure.of(effects["same"]),
            "fit": Measure.of(min(ends, key=np.mean)),
            "less": Measure.of(effects["plain"] - effects["invariant"]),
            "composed": Measure.of(shares["invariant"].composed[-1]),
            "composed_plain": Measure.of(shares["plain"].composed[-1]),
            "composed_same": Measure.of(shares["same"].composed[-1]),
        }
        composed = [Curve.over_units(ARMS[arm], gammas, found.composed.T, share=True) for arm, found in shares.items()]
        panels = [
            Panel(title="held-out pairs that are composed", x="initialization rate gamma", y="share of answers", curves=composed),
            Panel(title="accuracy on trained pairs", x="share of the steps", y="share of answers", curves=accuracies),
        ]
        return Findings(measures, panels, passes)

    def new_stack(self, recipe: dict[str, Any], gammas: Sequence[float]) -> Stack:
        """Every seed at each rate, ordered by rate."""
        base, seeds = parse_recipe(recipe), self.settings.seeds
        stack = Stack([base.override({"seed": FIRST_SEED + seed, "init.gamma": USUAL}) for _ in gammas for seed in range(seeds)])
        factors = float(base.model.d_model) ** (USUAL - np.repeat(gammas, seeds))
        scale_encoder(stack, factors.tolist())
        return stack

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        if measures["fit"].value < FIT or min(measures["effect_plain"].low, measures["effect_same"].low) <= 0:
            return CANNOT
        effect = measures["effect"]
        if effect.low > -MARGIN and effect.high < MARGIN:
            return REPLICATES
        return DOES_NOT if effect.low > 0 or effect.high < 0 else CANNOT
