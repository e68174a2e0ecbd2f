"""Are the weights of models that compose condensed, of low rank, and their embeddings ordered? (2405.05409; 2501.08537)"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anchorbench.claim import CANNOT, Measure, Panel, Verdict, above, all_of, claims
from anchorbench.claims.arms import ClaimOnArms, Found, composed
from anchorbench.claims.composite_runs import by_composed, fit_runs, post_ln, rank_correlation, related, solutions
from anchorbench.parts import changes
from anchorbench.presets import PRESETS
from anchorbench.sweeps.run_folder import Run

LEAST_FIT = 0.75
"""Share of runs that have to fit."""


def condensed(run: Run) -> dict[str, float]:
    """Doublings by which directions of the first query matrix and the mean stable rank are below the largest possible, and how well
    the embeddings of keys tell their number.
    """
    from anchorbench.probes.condensation import MEASURES, measures
    from anchorbench.probes.embedding_order import embedding_order

    weights = run.weights()
    query = weights["blocks.0.query.weight"]
    directions = measures(query)[MEASURES.index("directions")]
    matrices = [weight for name, weight in weights.items() if weight.ndim == 2 and name.startswith("blocks")]
    ranks = [measures(matrix)[MEASURES.index("stable_rank")] / min(matrix.shape) for matrix in matrices]
    return {
        "directions": float(np.log2(query.shape[1] / directions)),
        "ranks": -float(np.log2(ranks).mean()),
        "order": embedding_order(run, run.recipe.load_task()).scores()["ridge_r2"].value,
    }


@claims.register
class CondensedWeights(ClaimOnArms):
    """See the module."""

    name = "condensed-weights"
    paper = (
        "Zhang et al., Initialization is critical to whether transformers fit composite functions (2405.05409), sections 4.2"
        " and 4.3; 2501.08537, figure 5"
    )
    statement = (
        "Small initial weights end condensed: neurons of the first query matrix in few directions and matrices of low stable"
        " rank; and the more condensed a model is, the more of the held-out pairs it composes."
    )
    ground = (
        "Composite with 40 keys and sequences of 5; the paper's post-LN ReLU model with 2 layers, width 32 instead of 400,"
        " 1,500 steps in batches of 64, gamma 0.5 and 0.8 with decay 0.01 and 0.3, one seed per held-out pair. The stable rank"
        " is the mean over all matrices of the layers, as the paper does not say which it plots. The first half of the claim"
        " compares gammas by seed at decay 0.01; the second takes rank correlations over the runs of all four arms that fit."
        " The paper scale is the paper's model."
    )
    measures = {
        "composing": "rank correlation of the share composed with condensation of the first query matrix, over runs",
        "directions": "doublings by which directions of the first query matrix are fewer at gamma 0.8 than at 0.5",
        "ranks": "doublings by which the mean stable rank is lower at gamma 0.8 than at 0.5",
        "fit": "share of runs that fit",
        "composing_ranks": "rank correlation of the share composed with a low stable rank, over runs",
        "composing_order": "rank correlation of the share composed with how well embeddings tell the key's number, over runs",
        "order": "how much better embeddings tell the key's number (R squared) at gamma 0.8 than at 0.5",
        "decayed": "doublings by which directions of the first query matrix are fewer with decay 0.3, at gamma 0.5",
    }
    rule = (
        "It replicates if the intervals of directions, ranks and composing all lie above 0. It does not if directions or ranks"
        " lie below 0, or composing below 0.3; else, or if fit is below 0.75, it cannot be told."
    )
    published = (
        "Shown in figures: neurons of W_Q in few groups and ordered embeddings at small initial weights, stable ranks by phase."
    )
    reading = (
        "The first half stands without doubt: small initial weights end in a third of the directions and less than half of the"
        " stable rank, and weight decay alone halves the directions as well. That condensation goes with composing is not seen:"
        " neither it nor stable rank nor ordered embeddings is correlated with what a run composes. We believe that"
        " condensation tells how a model was trained and not how it answers; about four times as many runs would tell a"
        " correlation of zero from one of 0.3."
    )
    seconds = 65
    scales = {
        "laptop": solutions(6, post_ln(2), (0.5, 0.8), (0.01, 0.3)),
        "paper": solutions(
            6, changes(PRESETS["paper-neurips"].override({"variant": "heldout-pairs"})), (0.5, 0.6, 0.7, 0.8), (0.01, 0.1)
        ),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        arms: list[Any] = list(runs.values())
        large, decayed, small = arms[0], arms[1], arms[-2]
        every = [run for arm in arms for run in arm]
        fit = fit_runs(runs)
        shares = [composed(run) for run in fit]
        found = {run.path: condensed(run) for run in every}

        def values(name: str, of: Sequence[Run] = fit) -> np.ndarray:
            return np.array([found[run.path][name] for run in of])

        def more(name: str, arm: Sequence[Run]) -> Measure:
            return Measure.of(values(name, arm) - values(name, large))

        measures = {
            "composing": rank_correlation(shares, values("directions")),
            "directions": more("directions", small),
            "ranks": more("ranks", small),
            "fit": Measure.exact(len(fit) / len(every)),
            "composing_ranks": rank_correlation(shares, values("ranks")),
            "composing_order": rank_correlation(shares, values("order")),
            "order": more("order", small),
            "decayed": more("directions", decayed),
        }
        panels = [
            Panel(
                title=title,
                x="share of held-out answers composed, by thirds of the runs",
                y=unit,
                curves=[by_composed(label, fit, values(name).tolist()) for label, name in lines.items()],
            )
            for title, unit, lines in (
                ("condensation", "doublings below the largest", {"directions of W_Q": "directions", "stable rank": "ranks"}),
                ("embeddings of keys", "R squared of the key's number", {"all arms": "order"}),
            )
        ]
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        if measures["fit"].value < LEAST_FIT:
            return CANNOT
        return all_of(related(measures["composing"]), above(measures["directions"], 0), above(measures["ranks"], 0))
