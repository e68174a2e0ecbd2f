"""What a transformer needs for the identity: one layer that shifts tokens by one, and one that broadcasts the anchor's position."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from anchorbench.claim import CANNOT, Measure, Panel, Verdict, above, all_of, below, claims
from anchorbench.claims.anchor_function import PAPER, SMALLER, epochs, fits, in_the_paper, small
from anchorbench.claims.arms import Arms, ClaimOnArms, Found, accuracy, accuracy_train, measure, over_steps
from anchorbench.inspect.open_model import open_one
from anchorbench.sweeps.run_folder import Run

LEARNED, NOT_LEARNED = 0.9, 0.5
FULL, ONE, SHIFTED, NARROW = "two layers", "one layer", "one layer, values shifted", "feed-forward of one neuron"
ARMS = {
    FULL: {},
    ONE: {"model.n_layer": 1},
    SHIFTED: {"model.n_layer": 1, "model.kind": "shifted-values"},
    NARROW: {"model.d_ff": 1},
}
ASKED = 500


def attention(run: Run) -> tuple[float, float]:
    """Mean attention of the first layer from the key to the anchor before it, and of the last from the last token to the key."""
    task = run.recipe.load_task()
    asked = task.sample("iid", ASKED, run.recipe.seed)
    asked = asked[asked.position < task.seq_len - 1]  # at the end there is nothing to broadcast
    opened, _ = open_one(run, task)
    patterns = [pattern[0].mean(1).cpu().numpy() for pattern in opened.run(torch.from_numpy(asked.tokens)).patterns]
    rows, key = np.arange(len(asked)), asked.position
    return float(patterns[0][rows, key, key - 1].mean()), float(patterns[-1][rows, -1, key].mean())


@claims.register
class IdentityAblation(ClaimOnArms):
    """See the module."""

    name = "identity-ablation"
    paper = f"{PAPER}, identity learning, table of ablations and mechanism"
    statement = (
        "A transformer repeats the token after the anchor by shifting in one layer and broadcasting in the next, so that one layer"
        " alone fails, one whose values are shifted by a token succeeds, and the feed-forward layers are not needed."
    )
    ground = (
        "Task identity, 1000 examples, 2 layers of 1 head as in the paper's table. Tried are its rows of one layer, of one layer"
        " with shifted values, and of no feed-forward layer, for which ours is a layer of one neuron; those without LayerNorm,"
        " residuals, mask or projection are not." + SMALLER
    )
    measures = {
        "one": "accuracy at unseen keys and positions with one layer",
        "shifted": "the same with one layer whose values are shifted by a token",
        "narrow": "the same with two layers whose feed-forward layers have one neuron",
        "two": "the same with two layers",
        "fit_one": "accuracy on training examples with one layer",
        "shift": "two layers: attention of the first layer from the key to the anchor before it",
        "broadcast": "two layers: attention of the second layer from the last token to the key",
    }
    rule = (
        "It replicates if the interval of one lies below 0.5 and those of shifted and narrow above 0.9. It does not if one of them"
        " lies on the other side. Else, or if two is below 0.9 on average, it cannot be told. Attention decides nothing."
    )
    published = (
        "Mean of 5 seeds: two layers 1.00, one layer .086, one layer with shifted values 1.00, two without feed-forward .987."
    )
    reading = (
        "All rows replicate, to within a few hundredths. One layer fits the training examples almost as well as two, so what it"
        " lacks is not capacity: it memorizes. With the same parameters and values moved by one token it answers all. Attention"
        " agrees with the paper's account in the second layer, which reads from the key with .98 of its weight; the first one"
        " looks from the key to the anchor with .38, where an even share would be .24: a soft shift, as all that the second one"
        " needs is a mark of the anchor at the key."
    )
    seconds = 35
    scales = {
        "laptop": Arms(seeds=8, base=small("identity", steps=1200, data_size=1000), arms=ARMS),
        "paper": Arms(
            seeds=8,
            base=in_the_paper("identity", n_layer=2, n_head=1),
            arms={name: {**fields, **epochs(1000, 4000)} for name, fields in ARMS.items()},
        ),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        """See `ClaimOnArms`."""
        seen = np.array([attention(run) for run in runs[FULL]])
        measures = {
            "one": measure(runs[ONE], accuracy),
            "shifted": measure(runs[SHIFTED], accuracy),
            "narrow": measure(runs[NARROW], accuracy),
            "two": measure(runs[FULL], accuracy),
            "fit_one": measure(runs[ONE], accuracy_train),
            "shift": Measure.of(seen[:, 0]),
            "broadcast": Measure.of(seen[:, 1]),
        }
        way = [over_steps(name, arm, "accuracy_iid") for name, arm in runs.items()]
        trained = [over_steps(name, arm, "accuracy_train") for name, arm in runs.items()]
        panels = [
            Panel(title="unseen keys and positions", x="step", y="accuracy", log_x=True, level=LEARNED, curves=way),
            Panel(title="training examples", x="step", y="accuracy", log_x=True, curves=trained),
        ]
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        parts: list[Verdict] = [above(measures[name], LEARNED) for name in ("shifted", "narrow")]
        verdict = all_of(below(measures["one"], NOT_LEARNED), *parts)
        return verdict if fits(measures["two"]) else CANNOT
