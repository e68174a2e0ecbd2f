"""A rare anchor that means the same as a frequent one: which further data let a transformer compose pairs of the rare one?

Version 1 trained for half as many steps, in which some runs with doubled pairs were not fit. Version 2 has the same rule, and seeds
of its own.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from anchorbench.claim import CANNOT, Measure, Panel, Verdict, above, all_of, claims
from anchorbench.claims.anchor_function import PAPER, SMALLER, epochs, fits, in_the_paper, small
from anchorbench.claims.arms import (
    Arms,
    ClaimOnArms,
    Found,
    accuracy,
    composed,
    highest,
    measure,
    over_arms,
    over_steps,
    per_seed,
)
from anchorbench.sweeps.run_folder import Run

WAYS = {"synonym": "pairs of the synonym", "doubled": "doubled pairs", "nothing": "more of the same"}
RATIOS = (5, 19)
LEARNED, GAIN = 0.9, 0.3


def label(way: str, ratio: int) -> str:
    """The label of an arm."""
    return f"{WAYS[way]}, {1000 * (ratio + 1)}"


def arm(way: str, ratio: int) -> dict[str, object]:
    """Fields of an arm: augmentations are compared at the same number of examples."""
    return {"variant": f"add-{way}", "task_config": {"ratio": ratio}, "data_size": 1000 * (ratio + 1)}


@claims.register
class SynonymAugmentation(ClaimOnArms):
    """See the module."""

    name = "synonym-augmentation"
    version = 2
    first_seed = 100
    paper = f"{PAPER}, synonym: augmentations A, B and C"
    statement = (
        "A transformer composes unseen pairs of a rare anchor if the further training data have pairs of a synonym of it, and"
        " hardly if they have doubled pairs, or only more of the same."
    )
    ground = (
        "Task near-synonym: anchor 9 adds -2 like 3, and (4,9) and (9,4) are held out. To 1 part of pairs of 9 come m + 1 parts of"
        " pairs of 1, 2 and 4, and m parts of pairs of 3 (A) or of doubled pairs 11, 22, 44 and 99 (B); C has as many examples,"
        " half of them pairs of 9. m is 5 and 19, and there are 1000 (m + 1) examples. Shares in B are unknown, ours are"
        " those of A." + SMALLER
    )
    measures = {
        "composed": "share of held-out pairs composed after training with the synonym (A), 20,000 examples",
        "over_doubled": "the same, A minus B",
        "over_nothing": "the same, A minus C",
        "fit": "accuracy on trained pairs at unseen keys and positions, 20,000 examples, of the augmentation where it is lowest",
        "doubled": "share of held-out pairs composed with doubled pairs (B), 20,000 examples",
        "nothing": "the same with more of the same (C)",
        "highest_doubled": "largest share during training, B",
        "highest_nothing": "largest share during training, C",
    }
    rule = (
        "It replicates if the interval of composed lies above 0.9 and those of over_doubled and over_nothing above 0.3. It does"
        " not if one of them lies on the other side. Else, or if fit is below 0.9 on average, it cannot be told."
    )
    published = (
        "Last accuracy of single runs: A .91 and 1.0 from 4000 examples and 1 from 6000 on; B at most .6 and C at most .15 up to"
        " 20,000."
    )
    reading = (
        "It replicates with all its order: the synonym gives every held-out pair in every seed, from 6000 examples on, doubled"
        " pairs .06 to .43, more of the same .10 at most. More of them does not make doubled pairs better (.32 and .27). One run of"
        " C ends at .63 on trained pairs; without it the figures are the same. In version 1, with half the steps, doubled pairs"
        " composed .05, in runs of which a third were not fit: it was right not to judge them."
    )
    seconds = 170
    scales = {
        "laptop": Arms(
            seeds=6,
            base=small("near-synonym", steps=6000),
            arms={label(way, ratio): arm(way, ratio) for way in WAYS for ratio in RATIOS},
        ),
        "paper": Arms(
            seeds=8,
            base=in_the_paper("near-synonym", batch=100),
            arms={
                label(way, ratio): {**arm(way, ratio), **epochs(1000 * (ratio + 1), 4000, 100)} for way in WAYS for ratio in RATIOS
            },
        ),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        """See `ClaimOnArms`."""
        most = {way: runs[label(way, RATIOS[-1])] for way in WAYS}
        shares = {way: per_seed(arm, composed) for way, arm in most.items()}
        measures = {
            "composed": Measure.of(shares["synonym"]),
            "over_doubled": Measure.of(shares["synonym"] - shares["doubled"]),
            "over_nothing": Measure.of(shares["synonym"] - shares["nothing"]),
            "fit": Measure.of(min((per_seed(arm, accuracy) for arm in most.values()), key=np.mean)),
            "doubled": Measure.of(shares["doubled"]),
            "nothing": Measure.of(shares["nothing"]),
            "highest_doubled": measure(most["doubled"], highest("inferential")),
            "highest_nothing": measure(most["nothing"], highest("inferential")),
        }
        sizes = [1000 * (ratio + 1) for ratio in RATIOS]
        curves = [over_arms(words, sizes, [runs[label(way, ratio)] for ratio in RATIOS], composed) for way, words in WAYS.items()]
        way = [over_steps(words, most[way], "inferential") for way, words in WAYS.items()]
        panels = [
            Panel(title="held-out pairs, after training", x="examples", y="share composed", log_x=True, curves=curves),
            Panel(title="during training on 20,000", x="step", y="share composed", log_x=True, curves=way),
        ]
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        gains: list[Verdict] = [above(measures[name], GAIN) for name in ("over_doubled", "over_nothing")]
        verdict = all_of(above(measures["composed"], LEARNED), *gains)
        return verdict if fits(measures["fit"]) else CANNOT
