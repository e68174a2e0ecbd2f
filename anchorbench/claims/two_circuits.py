"""Do models that compose have the circuit that the papers drew for them, and the others the other one? (2405.05409; 2501.08537)

The papers looked at one model of each kind, by attention and by cosines. Here runs that differ in how much they compose are ordered
by that, and the same circuits are asked by patching, which shows what an answer uses.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from anchorbench.claim import CANNOT, Measure, Panel, Verdict, all_of, claims
from anchorbench.claims.arms import ClaimOnArms, Found, composed
from anchorbench.claims.composite_runs import by_composed, fit_runs, post_ln, rank_correlation, related, solutions
from anchorbench.parts import changes
from anchorbench.presets import PRESETS
from anchorbench.sweeps.run_folder import Run

SEQUENCES = 200
"""Trained sequences that are patched."""
LEAST_FIT = 0.75
"""Share of runs that have to fit."""


def circuits(run: Run) -> dict[str, float]:
    """Share of answers that follow each patch, and how much more alike value vectors at the first anchor are for equal values."""
    from anchorbench.inspect.open_model import open_model
    from anchorbench.probes.anchor_value import anchor_value
    from anchorbench.probes.patching import carried, followed, write_swaps

    task, opened = run.recipe.load_task(), open_model(run)
    shares = carried(followed(opened, write_swaps(task, SEQUENCES, 0)))
    blocks = anchor_value(opened, task, n=8).scores()["equal_minus_unequal"].value
    return {name: float(share[0]) for name, share in shares.items()} | {"blocks": blocks}


@claims.register
class TwoCircuits(ClaimOnArms):
    """See the module."""

    name = "two-circuits"
    paper = (
        "Zhang et al., Initialization is critical to whether transformers fit composite functions (2405.05409), section 4.1;"
        " 2501.08537, figure 4"
    )
    statement = (
        "A two-layer transformer that composes has moved the key to each anchor, where vectors are alike for equal intermediate"
        " values, and one that does not has merged the two anchors at the last position."
    )
    ground = (
        "Composite with 40 keys and sequences of 6; the paper's post-LN ReLU model with 2 layers and one head, width 32 instead"
        " of 400, 1,500 steps in batches of 64, gamma 0.5 and 0.8 with decay 0.01 and 0.3, one seed per held-out pair. Runs"
        " that fit are ordered by the share of held-out answers composed, and read on trained pairs alone, after the first"
        " layer: the share of answers that follow both anchors' streams from another sequence, or the last position's from"
        " another pair; and, as in the figure, cosines of second-layer values at the first anchor. Rank correlations are over"
        " runs of all four arms: they also hold what gamma and decay do by themselves. The paper scale is the paper's model."
    )
    measures = {
        "carry": "rank correlation of the share composed with that of answers that follow the anchors' streams",
        "merge": "rank correlation of the share composed with that of answers that do not follow the last position's stream",
        "blocks": "rank correlation of the share composed with how alike vectors at the first anchor are for equal values",
        "fit": "share of runs that fit",
        "spread": "share composed in the upper third of the runs minus that in the lower",
        "carry_mean": "share of answers that follow the anchors' streams, mean over runs",
        "merge_mean": "share of answers that follow the last position's stream, mean over runs",
        "parts": "rank correlation of the share composed with that of answers that follow streams of anchors that never met",
        "key": "rank correlation of the share composed with that of answers that follow the key's own stream",
    }
    rule = (
        "It replicates if the intervals of carry, merge and blocks all lie above 0. It does not if one of them lies below 0.3;"
        " else, or if fit is below 0.75, it cannot be told."
    )
    published = "One model of each kind is shown, with the flow of attention drawn and blocks of 4 by 4 cosines of .91 to .98."
    reading = (
        "The two circuits are there, and tell how much a run composes within each arm as well (correlations of 0.6 to 0.8 after"
        " the means of arms are taken out). They are no clean alternative: runs with the circuit of the anchors compose from"
        " 0.46 to 0.99 of held-out answers, and two runs that compose half of them have the other one. The papers' order of"
        " gamma is turned round: of these post-LN models the ones with smaller initial weights compose less, and most of them"
        " merge the pair."
    )
    seconds = 75
    scales = {
        "laptop": solutions(6, post_ln(2) | {"task_config": {"key_max": 59, "seq_len": 6}}, (0.5, 0.8), (0.01, 0.3)),
        "paper": solutions(
            6, changes(PRESETS["paper-neurips"].override({"variant": "heldout-pairs"})), (0.5, 0.6, 0.7, 0.8), (0.01, 0.1)
        ),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        every = [run for arm in runs.values() for run in arm]
        fit = fit_runs(runs)
        shares = [composed(run) for run in fit]
        found = [circuits(run) for run in fit]

        def values(name: str, sign: int = 1) -> list[float]:
            return [sign * each[name] for each in found]

        thirds = np.array_split(np.sort(shares), 3)
        measures = {
            "carry": rank_correlation(shares, values("anchors_carry")),
            "merge": rank_correlation(shares, values("pair_at_last", -1)),
            "blocks": rank_correlation(shares, values("blocks")),
            "fit": Measure.exact(len(fit) / len(every)),
            "spread": Measure.exact(float(thirds[-1].mean() - thirds[0].mean()) if len(fit) > 2 else 0.0),
            "carry_mean": mean(values("anchors_carry")),
            "merge_mean": mean(values("pair_at_last")),
            "parts": rank_correlation(shares, values("parts_carry")),
            "key": rank_correlation(shares, values("key_at_key")),
        }
        patches = {"both anchors": "anchors_carry", "anchors that never met": "parts_carry", "last position": "pair_at_last"}
        panels = [
            Panel(
                title="answers that follow a patch after the first layer, by thirds of the runs",
                x="share of held-out answers composed",
                y="share of answers",
                curves=[by_composed(label, fit, values(name)) for label, name in patches.items()],
            ),
            Panel(
                title="vectors at the first anchor, by thirds of the runs",
                x="share of held-out answers composed",
                y="cosine: equal minus unequal values",
                curves=[by_composed("trained pairs", fit, values("blocks"))],
            ),
        ]
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        if measures["fit"].value < LEAST_FIT:
            return CANNOT
        return all_of(related(measures["carry"]), related(measures["merge"]), related(measures["blocks"]))


def mean(values: Sequence[float]) -> Measure:
    """The mean over runs with its interval, where there are two."""
    return Measure.of(values) if len(values) > 1 else Measure(value=0, low=-1, high=1, n=1)
