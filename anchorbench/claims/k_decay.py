"""k-decay: a learning rate that falls later (Zhang and Li, 2004.05909), against controls of the same area.

The polynomial schedule falls as 1 - t/T; with k it falls as 1 - (t/T)^k. Its mean rises from 1/2 to k/(k+1) of the peak, so
that a gain over k = 1 may be one of more learning rate in all. Two controls have the same mean: the straight line from a peak
2k/(k+1) times as high, and a plateau at the same peak that falls in a straight line at the end.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import Field

from anchorbench.claim import CANNOT, DOES_NOT, REPLICATES, Claim, Curve, Experiment, Findings, Measure, Panel, Verdict, claims
from anchorbench.claims.trained import train
from anchorbench.recipe import Recipe, parse_recipe
from anchorbench.train.stack import Stack

GAIN = 0.01
"""The smallest gain in accuracy that counts: about that of the paper's abstract on CIFAR-10."""


class Settings(Experiment):
    """A recipe for all arms, and k."""

    recipe: dict[str, Any]
    """Fields of a recipe; its schedule is replaced."""
    k: float = Field(gt=1, le=100)
    looks: int = Field(ge=2, le=100)
    """Evaluations during training, evenly spaced, for the plot."""


MOST_FACTORS = 1000
Rates = Float[np.ndarray, " steps"]


def arms(done: Rates, k: float) -> dict[str, Rates]:
    """Name of each arm -> its learning rate where a share `done` of training is done, in units of the straight line's peak."""
    mean = k / (k + 1)
    return {
        "straight line": 1 - done,
        "k-decay": 1 - done**k,
        "higher peak": 2 * mean * (1 - done),
        "plateau": np.minimum(1, (1 - done) / (2 * (1 - mean))),
    }


@claims.register
class KDecay(Claim):
    """See the module."""

    name = "k-decay"
    paper = "Zhang and Li, k-decay: a new method for learning rate schedule (2004.05909), abstract"
    statement = "Putting (t/T)^k for t/T into a learning rate schedule improves the accuracy of the trained model."
    ground = (
        "A small GPT on the composite task (40 keys, so that it is fit within the steps), accuracy at unseen keys and positions"
        " at the end of training, as the paper's is on unseen images. Arms share weights, data and order by seed: the straight"
        " line (k = 1), k-decay, and two controls with the mean rate of k-decay: a straight line from a higher peak, and a"
        " plateau with a fall. The learning rate is the best of the straight line's on a grid, found on other seeds. The paper's"
        " ground is ResNets on CIFAR and ImageNet, which is not tried; the paper scale here is the benchmark's usual GPT and"
        " number of steps."
    )
    measures = {
        "gain_plateau": "accuracy of k-decay minus that of the plateau, of equal mean rate",
        "gain": "accuracy of k-decay minus that of the straight line",
        "gain_higher": "accuracy of k-decay minus that of the straight line from a higher peak, of equal mean rate",
        "accuracy": "accuracy of k-decay",
        "held_out": "share of held-out pairs composed: k-decay minus the straight line",
        "held_out_higher": "the same: k-decay minus the higher peak",
        "held_out_plateau": "the same: k-decay minus the plateau",
    }
    rule = (
        "It replicates if the intervals of gain, gain_higher and gain_plateau all lie above 0: a gain over the straight line"
        " alone may be one of a higher mean rate. It does not if one of the three lies below 0.01, the smallest gain of interest"
        " (about the abstract's on CIFAR-10); else it cannot be told. Held-out pairs decide nothing."
    )
    reading = (
        "The gain over the straight line replicates. The higher peak has the same mean rate and does worse than either, as its"
        " peak is too high for some seeds; over a plateau with the same peak and the same mean rate nothing is shown. We believe"
        " that most of the gain is that the rate stays high for longer, whatever the shape. The difference of one point to the"
        " plateau that was measured would take about 160 seeds to tell from zero."
    )
    seconds = 60
    scales = {
        "laptop": Settings(
            seeds=12,
            recipe={
                "task": "composite",
                "task_config": {"key_max": 59, "seq_len": 5},
                "model": {"d_model": 32, "d_head": 32, "d_ff": 128},
                "optimizer": {"lr": 6e-3, "weight_decay": 0.0, "warmup": 0},
                "batch": 64,
                "steps": 800,
            },
            k=3.0,
            looks=10,
        ),
        "paper": Settings(
            seeds=24,
            recipe={
                "task": "composite",
                "optimizer": {"lr": 2e-3, "weight_decay": 0.0, "warmup": 0},
                "batch": 128,
                "steps": 2500,
            },
            k=3.0,
            looks=10,
        ),
    }

    settings: Settings

    def run(self) -> Findings:
        settings = self.settings
        base = parse_recipe(settings.recipe)
        done = np.arange(base.steps) / base.steps
        rates = arms(done, settings.k)
        recipes = [with_rates(base, row).override({"seed": seed}) for row in rates.values() for seed in range(settings.seeds)]
        stack = Stack(recipes)
        looks = train(stack, settings.looks)

        def by_arm(values: list[float]) -> dict[str, np.ndarray]:
            return dict(zip(rates, np.array(values).reshape(len(rates), settings.seeds, -1), strict=True))

        members = stack.members()
        seen = by_arm([member.behaviour.accuracy_iid.value for member in members])
        held_out = by_arm([member.behaviour.inferential or 0.0 for member in members])
        others = {"": "straight line", "_higher": "higher peak", "_plateau": "plateau"}
        measures = {"accuracy": Measure.of(seen["k-decay"][:, 0])}
        for end, other in others.items():
            measures[f"gain{end}"] = Measure.of((seen["k-decay"] - seen[other])[:, 0])
            measures[f"held_out{end}"] = Measure.of((held_out["k-decay"] - held_out[other])[:, 0])
        trajectories = by_arm([point.accuracy_iid for member in members for point in member.trajectory])
        every = max(1, base.steps // 200)
        schedules = [
            Curve(label=name, x=list(range(1, base.steps + 1, every)), y=row[::every].tolist(), dashed=name == "straight line")
            for name, row in rates.items()
        ]
        lines = [
            Curve.over_units(name, looks, trajectory, share=True, dashed=name == "straight line")
            for name, trajectory in trajectories.items()
        ]
        panels = [
            Panel(title="accuracy at unseen keys and positions", x="step", y="share of answers", curves=lines),
            Panel(title=f"learning rate, k = {settings.k:g}", x="step", y="share of the straight line's peak", curves=schedules),
        ]
        return Findings(measures, panels, base.steps * len(recipes))

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        gains = [measures[name] for name in ("gain", "gain_higher", "gain_plateau")]
        if all(gain.low > 0 for gain in gains):
            return REPLICATES
        return DOES_NOT if any(gain.high < GAIN for gain in gains) else CANNOT


def with_rates(recipe: Recipe, rates: Rates) -> Recipe:
    """The recipe with its learning rate at every step written out, or at every few where the list would be too long."""
    every = -(-len(rates) // MOST_FACTORS)
    factors = [[step, float(rates[step])] for step in range(0, len(rates), every)]
    return recipe.override({"optimizer.schedule": {"kind": "piecewise", "factors": factors}})
