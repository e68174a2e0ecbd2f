"""Do smaller initial weights make a transformer compose what is held out? A smaller copy of a claim of 2405.05409."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anchorbench.claim import CANNOT, Measure, Panel, Verdict, above, claims
from anchorbench.claims.arms import Arms, ClaimOnArms, Found, accuracy_train, composed, over_steps, per_seed
from anchorbench.sweeps.run_folder import Run

LARGE, SMALL = "gamma 0.4", "gamma 0.7"
ARMS: dict[str, dict[str, Any]] = {LARGE: {"init.gamma": 0.4}, SMALL: {"init.gamma": 0.7}}
BASE = {"task": "composite", "model": {"d_model": 32, "d_head": 32, "d_ff": 64}, "optimizer": {"lr": 3e-3}, "batch": 32}


@claims.register
class SmallerStart(ClaimOnArms):
    """See the module."""

    name = "smaller-start"
    paper = "2405.05409, phase diagram"
    statement = "A transformer that starts from smaller weights composes more of the answers to held-out anchor pairs."
    ground = "Task composite; arms share seeds. Models and training are smaller than the paper's."
    measures = {
        "gain": "share of held-out answers composed at gamma 0.7 minus that at gamma 0.4, paired by seed",
        "fit": "accuracy on training examples, of the arm where it is lower",
    }
    rule = (
        "It replicates if the interval of gain lies above 0, and does not if it lies below. Else, or if fit is below 0.9, it"
        " cannot be told."
    )
    seconds = 60
    scales = {
        "laptop": Arms(seeds=6, base=BASE | {"steps": 1500}, arms=ARMS),
        "paper": Arms(seeds=30, base=BASE | {"steps": 10_000}, arms=ARMS),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        """Measures and plots, from each arm's runs in the order of seeds."""
        measures = {
            "gain": Measure.of(per_seed(runs[SMALL], composed) - per_seed(runs[LARGE], composed)),
            "fit": Measure.of(min((per_seed(arm, accuracy_train) for arm in runs.values()), key=np.mean)),
        }
        curves = [over_steps(name, arm, "inferential") for name, arm in runs.items()]
        return measures, [Panel(title="held-out answers", x="step", y="share composed", log_x=True, curves=curves)]

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        return above(measures["gain"], 0) if measures["fit"].value >= 0.9 else CANNOT
