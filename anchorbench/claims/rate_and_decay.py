"""Learning rate and weight decay beside the initial scale: do larger ones compose more and condense weights? (2405.05409)"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from anchorbench.claim import CANNOT, DOES_NOT, REPLICATES, Measure, Panel, Verdict, all_of, claims
from anchorbench.claims.arms import Arms, ClaimOnArms, Found, accuracy, composed, measure, over_arms, per_seed
from anchorbench.claims.composite_runs import FIT, over_pairs, post_ln
from anchorbench.parts import changes
from anchorbench.presets import PRESETS
from anchorbench.sweeps.run_folder import Run

LEAST = 0.1
"""The smallest gain of interest: a tenth of the answers, or of a doubling."""
Few = Field(min_length=2, max_length=12)


class Grid(Arms):
    """Every learning rate with every decay; the first and the last of each are compared."""

    rates: Annotated[list[Annotated[float, Field(gt=0, le=100)]], Few]
    decays: Annotated[list[Annotated[float, Field(ge=0, le=1000)]], Few]


def label(rate: float, decay: float) -> str:
    """The name of an arm."""
    return f"rate {rate:g}, decay {decay:g}"


def settings_of(seeds: int, base: dict[str, Any], rates: list[float], decays: list[float]) -> Grid:
    """All at gamma 0.5."""
    grid = itertools.product(rates, decays)
    arms = {label(rate, decay): {"optimizer.lr": rate, "optimizer.weight_decay": decay} for rate, decay in grid}
    return Grid(seeds=seeds, base=base, arms=arms, rates=rates, decays=decays)


def directions(run: Run) -> float:
    """Base-2 logarithm of the number of directions of the first query matrix's neurons."""
    from anchorbench.probes.condensation import MEASURES, measures

    return float(np.log2(measures(run.weights()["blocks.0.query.weight"])[MEASURES.index("directions")]))


@claims.register
class RateAndDecay(ClaimOnArms):
    """See the module."""

    name = "rate-and-decay"
    paper = "Zhang et al., Initialization is critical to whether transformers fit composite functions (2405.05409), appendix E"
    statement = (
        "At the usual initial scale a larger learning rate and a larger weight decay each make a transformer compose more of"
        " the held-out pairs and condense its first query matrix."
    )
    ground = (
        "Composite with 40 keys and sequences of 5; the paper's 3-layer post-LN ReLU model without biases at width 32 instead"
        " of 400, gamma 0.5, 1,500 steps in batches of 64: three learning rates that all fit, from 0.002 to 0.008, with decays"
        " 0.01 and 0.3. Each effect is averaged over the other axis. Each of the six pairs is held out by one seed, and"
        " intervals are over pairs; the paper holds out one pair and averages nine runs. The paper scale has the paper's five"
        " rates and its decays."
    )
    measures = {
        "by_rate": "share composed: the highest rate minus the lowest, mean over decays",
        "by_decay": "share composed: the strongest decay minus the weakest, mean over rates",
        "condensed_rate": "doublings by which directions of the first query matrix are fewer at the highest rate",
        "condensed_decay": "doublings by which directions of the first query matrix are fewer with the strongest decay",
        "fit": "accuracy on trained pairs, of the arm where it is lowest",
        "composed_lowest": "share composed at the lowest rate and decay",
        "composed_highest": "share composed at the highest rate and decay",
        "middle": "share composed: the middle rate minus the mean of lowest and highest, mean over decays",
    }
    rule = (
        "It replicates if the intervals of by_rate, by_decay, condensed_rate and condensed_decay all lie above 0. It does not"
        " if one of them lies below 0.1, the smallest gain of interest; else, or if fit is below 0.9, it cannot be told."
    )
    published = (
        "Larger rates and decays compose the held-out pair (3,4) more often and condense W_Q of the first layer (figures only)."
    )
    reading = (
        "Both condense the first query matrix, decay by more than a factor of two, which is shown. That either composes more is"
        " not: with decay more is composed at each of the three rates, but pairs differ by more than that, and the highest rate"
        " composes no more than the lowest. The middle rate composes most at both decays, so that a claim of the larger the"
        " better is in doubt here even where everything fits; the paper's range is wider, and its model far from the largest"
        " rate that trains."
    )
    seconds = 110
    scales = {
        "laptop": settings_of(6, post_ln(3), [2e-3, 4e-3, 8e-3], [0.01, 0.3]),
        "paper": settings_of(
            9,
            changes(PRESETS["paper-neurips"].override({"variant": "heldout-both", "model.n_layer": 3})),
            [5e-5, 1e-4, 2e-4, 4e-4, 6e-4],
            [0.003, 0.03, 0.3],
        ),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        settings: Any = self.settings
        rates, decays = settings.rates, settings.decays

        def grid(read: Any) -> np.ndarray:
            """[rates, decays, seeds]"""
            return np.array([[per_seed(runs[label(rate, decay)], read) for decay in decays] for rate in rates])

        ends, spread = grid(composed), grid(directions)
        by_rate = ends.mean(1)
        measures = {
            "by_rate": over_pairs(by_rate[-1] - by_rate[0]),
            "by_decay": over_pairs((ends[:, -1] - ends[:, 0]).mean(0)),
            "condensed_rate": over_pairs((spread[0] - spread[-1]).mean(0)),
            "condensed_decay": over_pairs((spread[:, 0] - spread[:, -1]).mean(0)),
            "fit": min((measure(arm, accuracy) for arm in runs.values()), key=lambda each: each.value),
            "composed_lowest": over_pairs(ends[0, 0]),
            "composed_highest": over_pairs(ends[-1, -1]),
            "middle": over_pairs(by_rate[len(rates) // 2] - (by_rate[0] + by_rate[-1]) / 2),
        }
        panels = [
            Panel(
                title=title,
                x="learning rate",
                y=unit,
                log_x=True,
                curves=[
                    over_arms(f"decay {decay:g}", rates, [runs[label(rate, decay)] for rate in rates], read, share=share)
                    for decay in decays
                ],
            )
            for title, unit, read, share in (
                ("held-out pairs composed", "share of answers", composed, True),
                ("first query matrix", "log2 of directions", directions, False),
            )
        ]
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""

        def gain(name: str) -> Verdict:
            return REPLICATES if measures[name].low > 0 else DOES_NOT if measures[name].high < LEAST else CANNOT

        found = all_of(*map(gain, ("by_rate", "by_decay", "condensed_rate", "condensed_decay")))
        return CANNOT if measures["fit"].value < FIT else found
