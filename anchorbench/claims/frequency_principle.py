"""Two anchors that do the same, or different things: is the former learned first, as the function of lower frequency?

If both anchors repeat the key, the answer does not change with the anchor; if one of them adds 1, it does, and the paper calls that
the function of higher frequency. Of our own are two controls: both anchors add 1, which is as constant in the anchor and no longer
a copy; and one adds 20, which changes with the anchor just as adding 1 does, as tokens have no order but what is learned.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anchorbench.claim import CANNOT, Measure, Panel, Verdict, above, claims
from anchorbench.claims.anchor_function import PAPER, SMALLER, epochs, fits, in_the_paper, small
from anchorbench.claims.arms import Arms, ClaimOnArms, Found, accuracy, first_step, over_steps, per_seed
from anchorbench.sweeps.run_folder import Run

ARMS = {"x and x": (0, 0), "x and x + 1": (0, 1), "x + 1 and x + 1": (1, 1), "x and x + 20": (0, 20)}
SAME, PLUS, SHIFTED, FAR = ARMS
HALF = first_step("accuracy_iid", 0.5)
LOW = first_step("loss", 1.0, falls=True)


def arm(first: int, second: int) -> dict[str, Any]:
    """Fields of the arm in which anchors 3 and 4 add these; answers stay in the vocabulary."""
    return {"task_config": {"offsets": {"3": first, "4": second}}}


@claims.register
class FrequencyPrinciple(ClaimOnArms):
    """See the module."""

    name = "frequency-principle"
    paper = f"{PAPER}, frequency principle: 3x to x and 4x to x, against 3x to x and 4x to x + 1"
    statement = "A transformer learns two anchors that give the same answer earlier than two whose answers differ by one."
    ground = (
        "Task two-anchors, 2000 examples: anchors 3 and 4 both repeat the key, or 4 adds 1. Arms share initial weights by seed."
        " Steps are counted until accuracy at unseen keys and positions is one half, interpolated between 12 evaluations."
        " Controls of our own: both add 1, and 4 adds 20." + SMALLER
    )
    measures = {
        "delay": "binary logarithm of the steps to half accuracy with x + 1, over those of two identities, paired by seed",
        "fit": "accuracy after training, of the two arms that are compared, where it is lower",
        "delay_loss": "the same logarithm, of steps until the training loss of a batch is below 1",
        "delay_shifted": "the same as delay, of both anchors adding 1 over two identities",
        "delay_far": "the same as delay, of x and x + 20 over two identities",
        "steps": "steps to half accuracy of two identities",
    }
    rule = (
        "It replicates if the interval of delay lies above 0, and does not if it lies below. Else, or if fit is below 0.9 on"
        " average, it cannot be told. Controls decide nothing."
    )
    published = (
        "Loss falls and accuracy rises first for two identities, in a figure (2000 examples, 4 layers of 4 heads); no number is"
        " given."
    )
    reading = (
        "The order replicates: with x + 1 it takes twice as many steps. The controls say why, and that is not a frequency in the"
        " key: two anchors that both add 1 are learned as fast as two copies, and one that adds 20 is delayed as one that adds 1,"
        " or a little less. What takes time is that two anchors have to be told apart at all."
    )
    seconds = 60
    scales = {
        "laptop": Arms(
            seeds=12,
            base=small("two-anchors", steps=1500, data_size=2000),
            arms={name: arm(*pair) for name, pair in ARMS.items()},
        ),
        "paper": Arms(
            seeds=12,
            base=in_the_paper("two-anchors", lr=2e-4),
            arms={name: {**arm(*pair), **epochs(2000, 300)} for name, pair in ARMS.items()},
        ),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        """See `ClaimOnArms`."""

        def delay(name: str, until: Any) -> Measure:
            return Measure.of(np.log2(per_seed(runs[name], until) / per_seed(runs[SAME], until)))

        measures = {
            "delay": delay(PLUS, HALF),
            "fit": Measure.of(min((per_seed(runs[name], accuracy) for name in (SAME, PLUS)), key=np.mean)),
            "delay_loss": delay(PLUS, LOW),
            "delay_shifted": delay(SHIFTED, HALF),
            "delay_far": delay(FAR, HALF),
            "steps": Measure.of(per_seed(runs[SAME], HALF)),
        }
        accuracies = [over_steps(name, arm, "accuracy_iid") for name, arm in runs.items()]
        losses = [over_steps(name, arm, "loss", share=False) for name, arm in runs.items()]
        panels = [
            Panel(title="unseen keys and positions", x="step", y="accuracy", log_x=True, level=0.5, curves=accuracies),
            Panel(title="training", x="step", y="loss of a batch", log_x=True, level=1.0, curves=losses),
        ]
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        return above(measures["delay"], 0) if fits(measures["fit"]) else CANNOT
