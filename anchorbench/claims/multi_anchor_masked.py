"""Anchors that never meet some of the keys: is an unseen combination answered by the anchor, or as the keys were trained?

With two anchors, each trained with its own half of the keys, the keys alone tell which function to apply. With more anchors, each
of which misses only its own small part of the keys, nothing but the anchor does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from anchorbench.claim import CANNOT, Measure, Panel, Scale, Verdict, above, all_of, below, claims
from anchorbench.claims.anchor_function import PAPER, SMALLER, epochs, fits, in_the_paper, small
from anchorbench.claims.arms import Arms, ClaimOnArms, Found, accuracy, composed, highest, measure, over_arms, over_steps
from anchorbench.sweeps.run_folder import Run

NEVER, MOSTLY = 0.1, 0.5
TWO, OVERLAP = "two intervals", "overlapping intervals"
TWO_ANCHORS = ((TWO, "intervals"), (OVERLAP, "overlap"))
COUNTS = (2, 5, 10)
DEPTHS: Mapping[Scale, tuple[int, int, int]] = {"laptop": (2, 3, 4), "paper": (2, 4, 8)}
SHALLOW = 2


def label(anchors: int, layers: int = SHALLOW) -> str:
    """The label of the arm with this many anchors, each of which is never trained with its own part of the keys."""
    return f"{anchors} anchors, {layers} layers"


def many(scale: Scale, **size: Any) -> dict[str, dict[str, Any]]:
    """The arms of more anchors: their number in a shallow model, and ten of them in deeper ones."""
    counted = {label(count): {"task_config": {"offsets": offsets(count)}, "model.n_layer": SHALLOW, **size} for count in COUNTS}
    return counted | {label(10, layers): {"model.n_layer": layers, **size} for layers in DEPTHS[scale][1:]}


def two(**size: Any) -> dict[str, dict[str, Any]]:
    """The arms of two anchors, in a shallow model."""
    return {name: {"task": "two-anchors", "variant": variant, "model.n_layer": SHALLOW, **size} for name, variant in TWO_ANCHORS}


def offsets(anchors: int) -> dict[str, int]:
    """Anchor -> what it adds, as in the paper's ten."""
    return {str(anchor): anchor for anchor in range(1, anchors + 1)}


def by_other_anchor(run: Run) -> float:
    """Share of masked answers that are as the other anchor would give them: off by one, where the two add 0 and 1."""
    counts = run.result.deviations
    return (counts.get(1, 0) + counts.get(-1, 0)) / sum(counts.values())


@claims.register
class MultiAnchorMasked(ClaimOnArms):
    """See the module."""

    name = "multi-anchor-masked"
    paper = f"{PAPER}, multi-anchor: two intervals, and ten anchors with ten intervals"
    statement = (
        "Where two anchors are trained with separate intervals of keys, a transformer never answers by the anchor when they are"
        " exchanged, and where ten anchors each miss one of ten intervals, it mostly does."
    )
    ground = (
        "Two anchors: 3 adds 0 to keys 20..59 and 4 adds 1 to keys 60..99, 10,000 examples; asked are the exchanged combinations."
        " The same with overlapping intervals. Ten anchors: a adds a, and never sees the a-th of ten intervals, which is asked;"
        " the same with 2 and 5 anchors and as many intervals, for the trend. 20,000 examples." + SMALLER + " As the paper's run of"
        " ten anchors has 8 layers, ours has 2, 3 and 4, and the deepest decides."
    )
    measures = {
        "masked_ten": "ten anchors, deepest model: share of unseen combinations answered by the anchor",
        "masked_two": "two intervals, 2 layers: the same",
        "fit_ten": "ten anchors, deepest model: accuracy on trained combinations at unseen keys and positions",
        "fit_two": "two intervals, 2 layers: the same",
        "by_other_two": "two intervals: share of unseen combinations answered as the other anchor would",
        "masked_ten_middle": "ten anchors, model of middle depth: share of unseen combinations answered by the anchor",
        "masked_ten_2": "ten anchors, 2 layers: the same",
        "masked_five": "five anchors and five intervals, 2 layers: the same",
        "masked_overlap": "overlapping intervals, 2 layers: the same, of keys that the anchor never met",
        "highest_ten": "ten anchors, deepest model: largest share during training",
    }
    rule = (
        "It replicates if the interval of masked_two lies below 0.1 and that of masked_ten above 0.5, more than half. It does not"
        " if one of them lies on the other side. Else, or if fit_two or fit_ten is below 0.9 on average, it cannot be told."
    )
    published = (
        "Two intervals: 0 from 1000 to 10,000 examples. Overlapping: .25 and .52, counted with keys of both intervals. Ten"
        " anchors: .85 and .87 for anchors 1 and 2, .97 for 10, at least .99 for the others (one run)."
    )
    reading = (
        "Both halves replicate. Two separate intervals give 0, and nearly all wrong answers are the other anchor's; with ten"
        " anchors it is .36, .65 and .82 with 2, 3 and 4 layers, all of which fit: here depth makes the difference, where in"
        " our pilot a width of 64 did not. At 4 layers the anchors of the outermost intervals are the worst (.32 and .40, all"
        " others .83 or more), as two of the paper's are; at the edge of the keys an interval has neighbours on one side only."
        " Number matters too: with five anchors hardly anything is right at 2 layers. With overlapping intervals we find none"
        " right: the paper's quarter and half are of keys that the anchor was trained with, which are not asked here."
    )
    seconds = 200
    scales = {
        "laptop": Arms(
            seeds=6,
            base=small("ten-anchors", steps=5000, data_size=20_000),
            arms=two(steps=2000, data_size=10_000) | many("laptop", **{"optimizer.warmup": 300}),
        ),
        "paper": Arms(
            seeds=8,
            base=in_the_paper("ten-anchors", n_layer=8, n_head=6, lr=1e-3, batch=100),
            arms=two(**epochs(10_000, 1000, 100)) | many("paper", **epochs(20_000, 500, 100)),
        ),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        """See `ClaimOnArms`."""
        depths = sorted({arm[0].recipe.model.n_layer for arm in runs.values()})
        ten, separate = runs[label(10, depths[-1])], runs[TWO]
        measures = {
            "masked_ten": measure(ten, composed),
            "masked_two": measure(separate, composed),
            "fit_ten": measure(ten, accuracy),
            "fit_two": measure(separate, accuracy),
            "by_other_two": measure(separate, by_other_anchor),
            "masked_ten_middle": measure(runs[label(10, depths[1])], composed),
            "masked_ten_2": measure(runs[label(10)], composed),
            "masked_five": measure(runs[label(5)], composed),
            "masked_overlap": measure(runs[OVERLAP], composed),
            "highest_ten": measure(ten, highest("inferential")),
        }
        counted, deeper = [runs[label(count)] for count in COUNTS], [runs[label(10, layers)] for layers in depths]
        panels = [
            Panel(
                title=title,
                x=x,
                y="share right",
                level=MOSTLY,
                curves=[
                    over_arms("unseen combinations", places, arms, composed),
                    over_arms("trained combinations", places, arms, accuracy, dashed=True),
                ],
            )
            for title, x, places, arms in (
                ("2 layers", "anchors and intervals", COUNTS, counted),
                ("ten anchors", "layers", depths, deeper),
            )
        ]
        way = [over_steps(name, runs[name], "inferential") for name in (TWO, *(label(10, layers) for layers in depths))]
        panels.append(Panel(title="unseen combinations, during training", x="step", y="share right", log_x=True, curves=way))
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        verdict = all_of(below(measures["masked_two"], NEVER), above(measures["masked_ten"], MOSTLY))
        return verdict if fits(measures["fit_two"], measures["fit_ten"]) else CANNOT
