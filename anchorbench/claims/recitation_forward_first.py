"""Forward and reverse recitation: does it take more examples to recite what came before than what came after?"""

from collections.abc import Mapping, Sequence

import numpy as np

from anchorbench.claim import CANNOT, Measure, Panel, Verdict, above, claims
from anchorbench.claims.anchor_function import PAPER, SMALLER, epochs, fits, in_the_paper, small
from anchorbench.claims.arms import Arms, ClaimOnArms, Found, measure, of_group, over_arms, over_steps, per_seed
from anchorbench.sweeps.run_folder import Run

SIZES = (500, 1000, 2000, 3000, 4000)
FORWARD, REVERSE = of_group("forward"), of_group("reverse")


@claims.register
class RecitationForwardFirst(ClaimOnArms):
    """See the module."""

    name = "recitation-forward-first"
    paper = f"{PAPER}, forward-reverse recitation, accuracy over the size of the training set"
    statement = (
        "Trained on both directions at once, a transformer needs more examples to recite a linked token backwards than forwards."
    )
    ground = (
        "Task recitation: a 3 b stands somewhere in 9 tokens; if the last one is a the answer is b (forward), if it is b the answer"
        " is a (reverse), each in half of the examples. Accuracy is at keys and positions never trained, averaged over the paper's"
        " five sizes of the training set." + SMALLER + " Every size gets the same number of steps."
    )
    measures = {
        "gap": "accuracy forward minus reverse, averaged over the five sizes",
        "forward": "accuracy forward from 4000 examples",
        "reverse": "accuracy in reverse from 4000 examples",
        "gap_largest": "forward minus reverse from 4000 examples",
        "gap_1000": "forward minus reverse from 1000 examples",
    }
    rule = (
        "It replicates if the interval of gap lies above 0, and does not if it lies below. Else, or if forward is below 0.9 on"
        " average, so that not even the easier direction is learned, it cannot be told."
    )
    published = (
        "Forward / reverse, mean of 3 seeds: .34 / .16 from 500 examples, .77 / .37 from 1000, .83 / .44 from 2000, .98 / .90 from"
        " 3000, .99 / .94 from 4000; a gap of .22 on average."
    )
    reading = (
        "The order replicates, the size of the effect does not: the gap is .05 on average here and .22 in the paper. It is there"
        " where either direction is half learned, at 1000 and 2000 examples, and at the paper's 3000 and 4000 nothing is left of"
        " it. We believe that the number of examples is not all of it: from 4000, where both end at .99, the reverse direction is"
        " still learned some 40% later, so that training cut short would show a gap at any size."
    )
    seconds = 80
    scales = {
        "laptop": Arms(seeds=10, base=small("recitation", steps=2000), arms={f"{n} examples": {"data_size": n} for n in SIZES}),
        "paper": Arms(
            seeds=10, base=in_the_paper("recitation", batch=100), arms={f"{n} examples": epochs(n, 4000, 100) for n in SIZES}
        ),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        """See `ClaimOnArms`."""
        arms, sizes = list(runs.values()), [arm[0].recipe.data_size for arm in runs.values()]
        gaps = np.stack([per_seed(arm, FORWARD) - per_seed(arm, REVERSE) for arm in arms], 1)
        measures = {
            "gap": Measure.of(gaps.mean(1)),
            "forward": measure(arms[-1], FORWARD),
            "reverse": measure(arms[-1], REVERSE),
            "gap_largest": Measure.of(gaps[:, -1]),
            "gap_1000": Measure.of(gaps[:, SIZES.index(1000)]),
        }
        at_end = [over_arms("forward", sizes, arms, FORWARD), over_arms("reverse", sizes, arms, REVERSE, dashed=True)]
        on_the_way = [over_steps(way, arms[-1], f"groups.{way}", dashed=way == "reverse") for way in ("forward", "reverse")]
        panels = [
            Panel(title="after training", x="training examples", y="accuracy", log_x=True, curves=at_end),
            Panel(title="during training on 4000", x="step", y="accuracy", log_x=True, curves=on_the_way),
        ]
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        return above(measures["gap"], 0) if fits(measures["forward"]) else CANNOT
