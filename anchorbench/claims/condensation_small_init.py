"""Small initial weights: do the neurons of a layer come to point in few directions, which usual weights do not?

The number of directions of n neurons is n^2 / sum cos^2 over all pairs: n if they are orthogonal, 1 if they are parallel. Of a
random square matrix it is about half of n.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from anchorbench.claim import CANNOT, Curve, Measure, Panel, Verdict, above, all_of, claims
from anchorbench.claims.anchor_function import PAPER, fits, in_the_paper, small
from anchorbench.claims.arms import Arms, ClaimOnArms, Found, accuracy, over_steps, per_seed
from anchorbench.inspect.open_model import open_runs
from anchorbench.probes.condensation import measures as directions_of
from anchorbench.sweeps.run_folder import Run

GAMMAS = (0.5, 1.0, 1.5, 2.0)
USUAL, SMALL = GAMMAS[0], GAMMAS[-1]
MATRICES = {"query.0": "queries, layer 1", "ff_in.0": "feed-forward neurons, layer 1", "ff_in.1": "feed-forward neurons, layer 2"}
HALVED = 1.0
"""Binary logarithm of the ratio that counts: half as many directions."""


def label(gamma: float) -> str:
    """The label of the arm with this initialization rate."""
    return f"gamma {gamma:g}"


def directions(runs: Sequence[Run], matrix: str, step: int | None = None) -> np.ndarray:
    """Directions of the neurons of a matrix, at the end of training or a step that was kept, `[seeds]`."""
    return directions_of(open_runs(runs, step).weight(matrix))[:, 0]


@claims.register
class CondensationSmallInit(ClaimOnArms):
    """See the module."""

    name = "condensation-small-init"
    paper = f"{PAPER}, condensation"
    statement = (
        "In a transformer that starts from small weights, the neurons of attention and feed-forward layers condense to fewer"
        " directions in training than from usual weights."
    )
    ground = (
        "Task identity, 2000 examples, weights of standard deviation d^-gamma, with gamma 2 for d = 32 near the paper's 0.001, and"
        " 0.5 as usual; 1 and 1.5 for the trend. Directions are counted by all cosines of the neurons' input weights; the paper"
        " shows the cosines. It has 4 layers of 256 heads of width 1; here there are 2 layers of one head of width 32, and as wide"
        " a feed-forward layer. Arms share data and order by seed."
    )
    measures = {
        "fewer_queries": "binary logarithm of directions from gamma 0.5 over those from 2: queries of layer 1, after training",
        "fewer_first": "the same: feed-forward neurons of layer 1",
        "fewer_second": "the same: feed-forward neurons of layer 2",
        "fit": "accuracy at unseen keys and positions, of the two rates that are compared, where it is lower",
        "early_queries": "as fewer_queries, at a fifth of the steps",
        "early_first": "as fewer_first, at a fifth of the steps",
        "directions_small": "directions of 32 feed-forward neurons of layer 1 after training from gamma 2",
        "directions_usual": "the same from gamma 0.5",
    }
    rule = (
        "It replicates if the intervals of fewer_queries, fewer_first and fewer_second all lie above 1: half as many directions in"
        " each. It does not if one of them lies below 1. Else, or if fit is below 0.9 on average, it cannot be told."
    )
    published = "Cosines of the neurons become 1 or -1 from small weights, in a figure; no number is given."
    reading = (
        "It replicates, and by more than the rule asks: from gamma 2 there are a third of the directions in feed-forward layers and"
        " an eighth in queries, while from gamma 0.5 the count stays that of a random matrix throughout. The trend over gamma is"
        " steep between 0.5 and 1. From gamma 1.5 and 2 neurons condense at once, to 2 directions by step 60, long before the task"
        " is learned, and spread a little while it is. All rates fit as well in the end, and the smaller the weights the later, up"
        " to twice: on this task condensation buys nothing that is seen."
    )
    seconds = 40
    scales = {
        "laptop": Arms(
            seeds=8,
            base=small("identity", steps=1500, data_size=2000, init={"depth_scale": False})
            | {"model": {"d_model": 32, "d_head": 32, "d_ff": 32, "norm": "post", "activation": "relu", "bias": False}},
            arms={label(gamma): {"init.gamma": gamma} for gamma in GAMMAS},
            keep_steps=[60, 150, 300, 600],
        ),
        "paper": Arms(
            seeds=8,
            base=in_the_paper("identity", n_head=256, data_size=10_000, steps=400_000),
            arms={
                label(gamma): {"model.d_model": 32, "model.d_ff": 32, "model.d_head": 1, "init.gamma": gamma} for gamma in GAMMAS
            },
            keep_steps=[16_000, 40_000, 80_000, 160_000],
        ),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        """See `ClaimOnArms`."""
        usual, small_ones, kept = runs[label(USUAL)], runs[label(SMALL)], self.settings.keep_steps

        def fewer(matrix: str, step: int | None = None) -> Measure:
            return Measure.of(np.log2(directions(usual, matrix, step) / directions(small_ones, matrix, step)))

        queries, first, second = MATRICES
        measures = {
            "fewer_queries": fewer(queries),
            "fewer_first": fewer(first),
            "fewer_second": fewer(second),
            "fit": Measure.of(min((per_seed(arm, accuracy) for arm in (usual, small_ones)), key=np.mean)),
            "early_queries": fewer(queries, kept[2]),
            "early_first": fewer(first, kept[2]),
            "directions_small": Measure.of(directions(small_ones, first)),
            "directions_usual": Measure.of(directions(usual, first)),
        }
        over_gamma = [
            Curve.over_units(words, GAMMAS, np.stack([directions(runs[label(gamma)], matrix) for gamma in GAMMAS], 1))
            for matrix, words in MATRICES.items()
        ]
        steps = [*kept, usual[0].recipe.steps]
        over_time = [
            Curve.over_units(name, steps, np.stack([directions(arm, first, step) for step in [*kept, None]], 1))
            for name, arm in runs.items()
        ]
        losses = [over_steps(name, arm, "loss", share=False) for name, arm in runs.items()]
        panels = [
            Panel(title="after training", x="initialization rate gamma", y="directions", curves=over_gamma),
            Panel(title="feed-forward neurons of layer 1", x="step", y="directions", log_x=True, curves=over_time),
            Panel(title="training", x="step", y="loss of a batch", log_x=True, curves=losses),
        ]
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        parts: list[Verdict] = [above(measures[name], HALVED) for name in ("fewer_queries", "fewer_first", "fewer_second")]
        verdict = all_of(*parts)
        return verdict if fits(measures["fit"]) else CANNOT
