"""Data complexity: are data in which all pairs follow the rule fit sooner than data with exceptions? (2405.05409v1; 2501.08537)

Version 1 trained for 1,500 steps, in which a third of the runs reached the loss: it could not be told. Version 2 has 3,000, in
which all pilot runs did, and seeds of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anchorbench.claim import CANNOT, Measure, Panel, Verdict, above, all_of, claims
from anchorbench.claims.arms import Arms, ClaimOnArms, Found, first_step, over_arms, over_steps, per_seed
from anchorbench.sweeps.run_folder import Run

LOSS = 0.1
"""The paper's mark: the first time that the training loss is below it."""
SMALL, USUAL = 0.8, 0.5
"""The paper's rate, and a larger initial scale."""


def label(gamma: float, exceptions: int) -> str:
    """The name of an arm."""
    return f"gamma {gamma:g}, {exceptions} exceptions"


def settings_of(seeds: int, base: dict[str, Any], exceptions: Sequence[int]) -> Arms:
    """Every number of pairs with exceptions at both rates."""
    arms = {label(gamma, k): {"init.gamma": gamma, "variant": f"wrong-{k}"} for gamma in (SMALL, USUAL) for k in exceptions}
    return Arms(seeds=seeds, base=base, arms=arms)


MODEL: Mapping[str, Any] = {"norm": "post", "activation": "relu", "bias": False, "unembed_bias": True}
INIT: Mapping[str, Any] = {"depth_scale": False, "unembed_bias": "uniform"}


@claims.register
class ExceptionsSlow(ClaimOnArms):
    """See the module."""

    name = "exceptions-slow"
    version = 2
    first_seed = 100
    paper = "Zhang et al., Complexity control (2501.08537), figure 8; 2405.05409v1, section on data complexity"
    statement = (
        "With small initial weights, data in which all pairs of anchors follow the rule are fit in fewer steps than data in"
        " which some pairs do not."
    )
    ground = (
        "The paper's task with 40 keys and sequences of 5, no pair held out and 0, 1 or 6 of the six unordered pairs with an"
        " offset of their own; its post-LN ReLU model without biases with 2 layers of width 32 instead of 400, 3,000 steps in"
        " batches of 64, at gamma 0.8 as in the paper and, beside it, 0.5. The measure is the paper's: the first step with a"
        " training loss below 0.1. The paper scale has all numbers of exceptions."
    )
    measures = {
        "one": "doublings of the steps to a loss of 0.1 that one pair with an exception takes, at gamma 0.8",
        "all": "doublings that exceptions for all six pairs take, at gamma 0.8",
        "reached": "share of runs that reach the loss, at gamma 0.8; those that do not count as the last step",
        "one_usual": "doublings that one pair with an exception takes, at gamma 0.5",
        "all_usual": "doublings that exceptions for all six pairs take, at gamma 0.5",
        "steps": "steps to a loss of 0.1 without exceptions, at gamma 0.8",
        "steps_usual": "steps to a loss of 0.1 without exceptions, at gamma 0.5",
    }
    rule = (
        "It replicates if the intervals of one and all both lie above 0. It does not if one of them lies below 0; else, or if"
        " reached is below 0.9, it cannot be told."
    )
    published = "At gamma 0.8 data without exceptions reach the loss first, and each further pair with one delays it (figure only)."
    reading = (
        "One pair with an exception delays the fit by a fifth of the steps, which is shown and is the paper's point. Exceptions"
        " for all six pairs do not show a delay: there the data follow a table of unordered pairs, which has no exceptions"
        " either. So what takes time may be the mixture rather than the number of exceptions, and more of them need not take"
        " longer."
    )
    seconds = 150
    scales = {
        "laptop": settings_of(
            seeds=8,
            base={
                "task": "data-complexity",
                "task_config": {"key_max": 59, "seq_len": 5},
                "model": {**MODEL, "d_model": 32, "d_head": 32, "d_ff": 96},
                "init": INIT,
                "optimizer": {"lr": 3e-3, "warmup": 100, "start": 0.04, "end": 0.04},
                "batch": 64,
                "steps": 3000,
            },
            exceptions=(0, 1, 6),
        ),
        "paper": settings_of(
            seeds=8,
            base={
                "task": "data-complexity",
                "task_config": {"vocab_size": 201},
                "model": {**MODEL, "d_model": 400, "d_head": 200, "d_ff": 1200},
                "init": INIT,
                "optimizer": {"lr": 1e-4, "warmup": 300, "start": 0.1, "end": 0.1},
                "batch": 300,
                "steps": 6300,
                "data_size": 90_000,
            },
            exceptions=range(7),
        ),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        counts = sorted({int(name.split()[2]) for name in runs})

        def steps(run: Run) -> float:
            return min(first_step("loss", LOSS, falls=True)(run), float(run.recipe.steps))

        def doublings(run: Run) -> float:
            return float(np.log2(steps(run)))

        logs = {name: per_seed(arm, doublings) for name, arm in runs.items()}

        def delay(gamma: float, count: int) -> Measure:
            return Measure.of(logs[label(gamma, count)] - logs[label(gamma, 0)])

        small = [run for count in counts for run in runs[label(SMALL, count)]]
        measures = {
            "one": delay(SMALL, counts[1]),
            "all": delay(SMALL, counts[-1]),
            "reached": Measure.exact(float(np.mean([steps(run) < run.recipe.steps for run in small]))),
            "one_usual": delay(USUAL, counts[1]),
            "all_usual": delay(USUAL, counts[-1]),
            "steps": Measure.of(per_seed(runs[label(SMALL, 0)], steps)),
            "steps_usual": Measure.of(per_seed(runs[label(USUAL, 0)], steps)),
        }
        over_counts = [
            over_arms(f"gamma {gamma:g}", counts, [runs[label(gamma, count)] for count in counts], steps, share=False)
            for gamma in (SMALL, USUAL)
        ]
        lines = [over_steps(f"{count} exceptions", runs[label(SMALL, count)], "accuracy_iid") for count in counts]
        panels = [
            Panel(title="steps to a loss of 0.1", x="pairs with an exception", y="step", curves=over_counts),
            Panel(title="accuracy at gamma 0.8", x="step", y="share of answers", log_x=True, curves=lines),
        ]
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        if measures["reached"].value < 0.9:
            return CANNOT
        return all_of(above(measures["one"], 0), above(measures["all"], 0))
