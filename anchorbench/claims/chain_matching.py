"""Do small initial weights and post-LN help a transformer to match edges that it has never seen? (2405.15302, first version)

On the first board, which asks for one hop, every run matches unseen edges in the end, at every gamma and with either norm, so the
question is when they come to it.

Version 1 asked for two hops of a model of two layers, none of which fit. Version 2 asks for one, as the board does, on new seeds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anchorbench.claim import CANNOT, Measure, Panel, Verdict, all_of, below, claims
from anchorbench.claims.anchor_function import epochs, fits, in_the_paper
from anchorbench.claims.arms import Arms, ClaimOnArms, Found, Read, accuracy, first_step, over_steps, per_seed
from anchorbench.sweeps.run_folder import Run

LARGE, SMALL = 0.5, 0.8
"""Initialization rates; the larger rate gives smaller weights."""
ARMS = {f"{norm}-LN, gamma {gamma:g}": (norm, gamma) for norm in ("pre", "post") for gamma in (LARGE, SMALL)}


def doublings(field: str) -> Read:
    """Binary logarithm of the steps until half of these answers are right; of all steps, if they never are."""
    read = first_step(field, 0.5)
    return lambda run: math.log2(min(read(run), run.recipe.steps))


def arms() -> dict[str, dict[str, Any]]:
    """Every norm at either rate."""
    return {name: {"model.norm": norm, "init.gamma": gamma} for name, (norm, gamma) in ARMS.items()}


@claims.register
class ChainMatching(ClaimOnArms):
    """See the module."""

    name = "chain-matching"
    version = 2
    first_seed = 100
    paper = (
        "Wang et al., Towards understanding how transformers perform multi-step reasoning with matching operation (2405.15302),"
        " first version, on initialization and norm"
    )
    statement = "Small initial weights and post-LN help a transformer to match edges of a chain that it has never seen."
    ground = (
        "One chain of six edges, shuffled, and a node: which node is next? Edges of the test have differences that no trained edge"
        " has. Two layers of width 64, one hop and 1500 steps in batches of 128, where the paper has three of width 400 and two"
        " hops: the steps until half of the answers on unseen edges are right, interpolated between evaluations, or all steps if"
        " they never are. Pre-LN and post-LN at gamma 0.5 and 0.8 share data and draws of the initial weights by seed. We have"
        " read the paper's abstract, code and reviews, not its text: that the claim is about when edges are matched is our"
        " reading of it. Its matching scores of weights are not computed."
    )
    measures = {
        "by_gamma": "doublings of the steps until half of unseen edges are matched: gamma 0.8 minus 0.5, mean over norms",
        "by_norm": "the same: post-LN minus pre-LN, mean over gammas",
        "fit": "accuracy on unseen edges at the end, of the arm where it is lowest",
        "lag": "doublings of the steps from half of trained sequences to half of unseen edges, mean over arms",
        "steps": "steps until half of unseen edges are matched, pre-LN at gamma 0.5",
    }
    rule = (
        "It replicates if the intervals of by_gamma and by_norm both lie below 0. It does not if one of them lies above 0; else,"
        " or if fit is below 0.9, it cannot be told."
    )
    reading = (
        "Weights and norm work together: at gamma 0.8 unseen edges are matched sooner with pre-LN and later with post-LN, and"
        " post-LN is later at small weights alone. The mean over norms that the rule asks for hides that. Every arm matches all"
        " edges in the end, and unseen ones a tenth of a doubling after trained ones, so that little is left to be helped."
        " Version 1, at two hops, could not be told, as no run fit."
    )
    seconds = 600
    scales = {
        "laptop": Arms(
            seeds=5,
            base={
                "task": "chain-search",
                "variant": "single",
                "task_config": {"hops": 1},
                "optimizer": {"lr": 1e-3, "warmup": 200},
                "steps": 1500,
            },
            arms=arms(),
        ),
        "paper": Arms(
            seeds=5,
            base=in_the_paper("chain-search", n_layer=3, n_head=1, lr=1e-4, variant="single"),
            arms={name: {**fields, **epochs(10_000, 4000)} for name, fields in arms().items()},
        ),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        """See `ClaimOnArms`."""
        unseen = {ARMS[name]: per_seed(arm, doublings("accuracy_iid")) for name, arm in runs.items()}
        trained = {ARMS[name]: per_seed(arm, doublings("accuracy_train")) for name, arm in runs.items()}
        by_gamma = [unseen[norm, SMALL] - unseen[norm, LARGE] for norm in ("pre", "post")]
        by_norm = [unseen["post", gamma] - unseen["pre", gamma] for gamma in (LARGE, SMALL)]
        measures = {
            "by_gamma": Measure.of(np.mean(by_gamma, 0)),
            "by_norm": Measure.of(np.mean(by_norm, 0)),
            "fit": Measure.of(min((per_seed(arm, accuracy) for arm in runs.values()), key=np.mean)),
            "lag": Measure.of(np.mean([unseen[each] - trained[each] for each in unseen], 0)),
            "steps": Measure.of(2 ** unseen["pre", LARGE]),
        }
        panels = [
            Panel(
                title=title,
                x="step",
                y="share of answers",
                log_x=True,
                level=0.5,
                curves=[over_steps(name, arm, field, dashed=name.startswith("pre")) for name, arm in runs.items()],
            )
            for title, field in (("unseen edges", "accuracy_iid"), ("trained sequences", "accuracy_train"))
        ]
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        if not fits(measures["fit"]):
            return CANNOT
        return all_of(below(measures["by_gamma"], 0), below(measures["by_norm"], 0))
