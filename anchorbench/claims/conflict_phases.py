"""Do small initial weights answer the mirror of a trained exception by the rule, and large ones repeat it? (2405.05409)

In pilot runs on other seeds both repeated it in narrow models of two layers, whereas logs that the authors stored show the
published order at width 400 and 78,000 steps. So the diagram over depth comes with a trend over width, and the rule asks both.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from anchorbench.claim import CANNOT, DOES_NOT, REPLICATES, Curve, Measure, Panel, Verdict, claims
from anchorbench.claims.arms import Arms, ClaimOnArms, Found, Read, accuracy, composed, highest, measure, over_arms, per_seed
from anchorbench.parts import changes
from anchorbench.presets import PRESETS
from anchorbench.sweeps.run_folder import Run

MARGIN = 0.2
"""A difference in the share composed that is smaller counts as none."""
FIT = 0.9
"""Accuracy on trained pairs that the arms that decide have to reach: the paper's shading."""
LARGE, SMALL = 0.5, 0.8
"""The rates of the paper's two examples; the larger rate gives smaller weights."""
Few = Field(min_length=1, max_length=12)


class Diagram(Arms):
    """A grid of depths and rates at the first width, and of widths and rates at the first depth."""

    depths: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Few]
    widths: Annotated[list[Annotated[int, Field(ge=1, le=10_000)]], Few]
    gammas: Annotated[list[Annotated[float, Field(ge=-10, le=100)]], Few]


def label(depth: int, width: int, gamma: float) -> str:
    """The name of an arm."""
    return f"{depth} layers of width {width}, gamma {gamma:g}"


def settings_of(
    seeds: int, base: dict[str, Any], depths: list[int], widths: list[int], gammas: list[float], rate: float
) -> Diagram:
    """The learning rate, `rate` at the first width, falls as the width grows by its square root, so that all fit."""
    arms: dict[str, dict[str, Any]] = {}
    for depth, width in [*((depth, widths[0]) for depth in depths), *((depths[0], width) for width in widths[1:])]:
        for gamma in gammas if width == widths[0] else (LARGE, SMALL):
            arms[label(depth, width, gamma)] = {
                **{"model.n_layer": depth, "init.gamma": gamma, "optimizer.lr": rate * (widths[0] / width) ** 0.5},
                **{"model.d_model": width, "model.d_head": width // 2, "model.d_ff": 3 * width},
            }
    return Diagram(seeds=seeds, base=base, arms=arms, depths=depths, widths=widths, gammas=gammas)


def symmetric(run: Run) -> float:
    """Share of the mirror's answers that repeat the exception, at the end of training."""
    return run.result.symmetric.value if run.result.symmetric else 0.0


@claims.register
class ConflictPhases(ClaimOnArms):
    """See the module."""

    name = "conflict-phases"
    paper = "Zhang et al., Initialization is critical to whether transformers fit composite functions (2405.05409), figure 2"
    statement = (
        "Trained on an exception to a rule, a transformer with small initial weights answers the exception's mirror by the"
        " rule, and one with large ones repeats the exception, at every depth."
    )
    ground = (
        "The paper's task with 40 keys and sequences of 5, its post-LN ReLU model without biases at width 32 instead of 400,"
        " 2,000 steps in batches of 64 instead of 78,000 of 2,048: the share of the mirror's answers that follow the rule at"
        " the end of training, at gamma 0.8 minus that at 0.5, the paper's examples, over depths 2, 3 and 4; and, at depth 2,"
        " over widths 24, 32 and 64. The paper takes the best of nine learning rates for each of the two answers; here there is"
        " one. The paper scale is the paper's, with widths 100 and 200 beside 400."
    )
    measures = {
        "effect": "share answered by the rule: gamma 0.8 minus gamma 0.5, mean over depths",
        "trend": "change of that difference per doubling of the width, at the first depth",
        "fit": "accuracy on trained pairs, of the depth, width and rate (0.5 or 0.8) where it is lowest",
        "by_rule": "share answered by the rule at gamma 0.8, mean over depths",
        "by_rule_large": "share answered by the rule at gamma 0.5, mean over depths",
        "repeated": "share that repeats the exception at gamma 0.8, mean over depths",
        "repeated_large": "share that repeats the exception at gamma 0.5, mean over depths",
        "highest": "the largest share answered by the rule during training at gamma 0.8, mean over depths",
        "highest_large": "the largest share answered by the rule during training at gamma 0.5, mean over depths",
        "largest": "accuracy on trained pairs of the deepest model at the smallest gamma, which the paper finds not to fit",
    }
    rule = (
        "It replicates if the interval of effect lies above 0.2 and that of trend does not lie below 0. It does not if effect"
        " lies below 0.2 and trend does not lie above 0. Else, or if fit is below 0.9, it cannot be told: a trend against the"
        " effect says that wider models may differ."
    )
    published = (
        "Answered by the rule in about 100% at small weights and the exception repeated in about 100% at larger ones (the"
        " maximum over nine learning rates, mean of three seeds)."
    )
    reading = (
        "At this scale the order is turned round: small weights repeat the exception in four of five answers, at every depth,"
        " and larger ones follow the rule more often, in deeper models most. That large weights in a deep model do not fit does"
        " replicate. The difference may shrink as the width grows, which three widths do not settle, and the authors' logs show"
        " the published order at width 400 after far more steps; so we believe that it holds there and is no property of the"
        " scale of initial weights alone. Fewer steps, smaller batches and short sequences are untried reasons."
    )
    seconds = 320
    scales = {
        "laptop": settings_of(
            seeds=5,
            base={
                "task": "composite",
                "variant": "conflict",
                "task_config": {"key_max": 59, "seq_len": 5},
                "model": {"norm": "post", "activation": "relu", "bias": False, "unembed_bias": True},
                "init": {"depth_scale": False, "unembed_bias": "uniform"},
                "optimizer": {"warmup": 100, "start": 0.04, "end": 0.04},
                "batch": 64,
                "steps": 2000,
            },
            depths=[2, 3, 4],
            widths=[32, 24, 64],
            gammas=[0.3, LARGE, SMALL],
            rate=3e-3,
        ),
        "paper": settings_of(
            seeds=3,
            base=changes(PRESETS["paper-neurips"]),
            depths=[2, 3, 4, 5, 6, 7],
            widths=[400, 100, 200],
            gammas=[0.3, 0.4, LARGE, 0.6, 0.7, SMALL],
            rate=2.5e-4,
        ),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        settings: Any = self.settings
        depth, width = settings.depths[0], settings.widths[0]
        widths = sorted(settings.widths)
        deciding = [(depth, width) for depth in settings.depths] + [(depth, width) for width in settings.widths[1:]]

        def over_depths(read: Read, gamma: float) -> np.ndarray:
            return np.mean([per_seed(runs[label(depth, width, gamma)], read) for depth in settings.depths], axis=0)

        by_rule = {gamma: over_depths(composed, gamma) for gamma in (LARGE, SMALL)}
        effects = [
            per_seed(runs[label(depth, width, SMALL)], composed) - per_seed(runs[label(depth, width, LARGE)], composed)
            for width in widths
        ]
        slopes = np.polyfit(np.log2(widths), np.array(effects), 1)[0]
        fits = [measure(runs[label(*shape, gamma)], accuracy) for shape in deciding for gamma in (LARGE, SMALL)]
        measures = {
            "effect": Measure.of(by_rule[SMALL] - by_rule[LARGE]),
            "trend": Measure.of(slopes),
            "fit": min(fits, key=lambda each: each.value),
            "by_rule": Measure.of(by_rule[SMALL]),
            "by_rule_large": Measure.of(by_rule[LARGE]),
            "repeated": Measure.of(over_depths(symmetric, SMALL)),
            "repeated_large": Measure.of(over_depths(symmetric, LARGE)),
            "highest": Measure.of(over_depths(highest("inferential"), SMALL)),
            "highest_large": Measure.of(over_depths(highest("inferential"), LARGE)),
            "largest": measure(runs[label(settings.depths[-1], width, settings.gammas[0])], accuracy),
        }

        def over_gammas(depth: int) -> Curve:
            arms = [runs[label(depth, width, gamma)] for gamma in settings.gammas]
            return over_arms(f"{depth} layers", settings.gammas, arms, composed)

        of_width = Curve.over_units("gamma 0.8 minus gamma 0.5", widths, np.array(effects).T)
        panels = [
            Panel(title="answered by the rule", x="gamma", y="share of answers", curves=list(map(over_gammas, settings.depths))),
            Panel(title=f"{depth} layers", x="width", y="difference in that share", log_x=True, level=MARGIN, curves=[of_width]),
        ]
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        effect, trend = measures["effect"], measures["trend"]
        if measures["fit"].value < FIT:
            return CANNOT
        if effect.low > MARGIN and trend.high >= 0:
            return REPLICATES
        return DOES_NOT if effect.high < MARGIN and trend.low <= 0 else CANNOT
