"""Four tasks of the paper, one claim each: a transformer learns the task from so many examples, at unseen keys and positions.

Version 1 of classification was trained for a third of the steps, in which half of the seeds did not leave the plateau of guessing.
Version 2 has the same rule, and seeds of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from anchorbench.claim import CANNOT, Measure, Panel, Verdict, above, all_of, claims
from anchorbench.claims.anchor_function import PAPER, SMALLER, epochs, fits, in_the_paper, small
from anchorbench.claims.arms import (
    Arms,
    ClaimOnArms,
    Found,
    accuracy,
    accuracy_train,
    composed,
    highest,
    measure,
    over_arms,
    over_steps,
)
from anchorbench.sweeps.run_folder import Run

LEARNED = 0.9
MEASURES = {
    "accuracy": "accuracy at unseen keys and positions, from the paper's number of examples",
    "fit": "accuracy on training examples, from the paper's number of examples",
    "held_out": "accuracy on groups that are never trained, from the paper's number of examples",
    "highest": "largest accuracy at unseen keys and positions during training",
    "highest_held_out": "largest accuracy on groups that are never trained, during training",
}
RULE = (
    "It replicates if the interval of accuracy lies above 0.9, and does not if it lies below. Else, or if fit is below 0.9 on"
    " average, it cannot be told. Groups that are never trained decide nothing."
)


def sizes(most: int) -> dict[str, dict[str, Any]]:
    """Arms with a quarter and all of the paper's examples."""
    return {f"{n} examples": {"data_size": n} for n in (most // 4, most)}


class Learned(ClaimOnArms):
    """A task that is learned from as many examples as its last arm has."""

    measures = MEASURES
    rule = RULE
    decides: ClassVar[tuple[str, ...]] = ("accuracy",)

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        """See `ClaimOnArms`."""
        arms = list(runs.values())
        most, n = arms[-1], [arm[0].recipe.data_size for arm in arms]
        measures = {
            "accuracy": measure(most, accuracy),
            "fit": measure(most, accuracy_train),
            "held_out": measure(most, composed),
            "highest": measure(most, highest("accuracy_iid")),
            "highest_held_out": measure(most, highest("inferential")),
        }
        curves = [
            over_arms("unseen keys and positions", n, arms, accuracy),
            over_arms("groups never trained", n, arms, composed),
            over_arms("training examples", n, arms, accuracy_train, dashed=True),
        ]
        way = [
            over_steps("unseen keys and positions", most, "accuracy_iid"),
            over_steps("groups never trained", most, "inferential"),
        ]
        panels = [
            Panel(title="after training", x="training examples", y="accuracy", log_x=True, level=LEARNED, curves=curves),
            Panel(title=f"during training on {n[-1]}", x="step", y="accuracy", log_x=True, level=LEARNED, curves=way),
        ]
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        parts: list[Verdict] = [above(measures[name], LEARNED) for name in cls.decides]
        verdict = all_of(*parts)
        return verdict if fits(measures["fit"]) else CANNOT


@claims.register
class ReadingComprehensionLearned(Learned):
    """Reading comprehension from 2000 examples."""

    name = "reading-comprehension-learned"
    paper = f"{PAPER}, reading comprehension"
    statement = "From 2000 examples a transformer learns to look up the value of an anchor that the last token asks for."
    ground = (
        "Task reading-comprehension-lookup in the paper's format, a1 x1 a2 x2 a3 x3 a; the anchors are 1, 2 and 3 in any order."
        " Question 2 is never asked where its value comes second: these are the groups never trained, of our own." + SMALLER
    )
    published = "1.00 from 2000 examples, 4 layers of 4 heads."
    reading = (
        "It replicates in 200 steps, and needs fewer examples than the paper's: .96 from 500. What was held out is a question"
        " together with a place, and .96 of it is right after all; from 500 examples .68."
    )
    seconds = 30
    scales = {
        "laptop": Arms(
            seeds=8,
            base=small("reading-comprehension-lookup", variant="paper-format", steps=2000),
            arms=sizes(2000),
        ),
        "paper": Arms(
            seeds=8,
            base=in_the_paper("reading-comprehension-lookup", variant="paper-format", lr=1e-3),
            arms={f"{n} examples": epochs(n, 4000) for n in (125, 500, 2000)},
        ),
    }


@claims.register
class ClassificationLearned(Learned):
    """Classification from 100,000 examples."""

    name = "classification-learned"
    version = 2
    first_seed = 100
    paper = f"{PAPER}, classification"
    statement = "From 100,000 examples a transformer learns to give the class of the nearest of three values in its context."
    ground = (
        "Task nearest-value-classification in the paper's format, x1 a1 x2 a2 x3 a3 x, without ties or equal values. Never trained"
        " are sequences whose nearest value comes second and lies above x, of our own." + SMALLER + " The paper's has 2 layers of"
        " 1 head here too."
    )
    published = "Test accuracy .994, train 1.0, from 100,000 examples in a long training, 2 layers of 1 head."
    reading = (
        "It is learned, but whether to .9 cannot be told: all seeds fit what they are trained on, and at unseen values and"
        " positions they reach .84 to .98, the paper .994. Guessing one of three gives a plateau that the seeds leave at very"
        " different times (version 1 ended while half of them were on it), so a longer training would be the first thing to try,"
        " and more than 6 seeds."
    )
    seconds = 100
    scales = {
        "laptop": Arms(
            seeds=6,
            base=small("nearest-value-classification", variant="paper-format", steps=30_000),
            arms={"100000 examples": {"data_size": 100_000}},
        ),
        "paper": Arms(
            seeds=6,
            base=in_the_paper("nearest-value-classification", n_layer=2, n_head=1, variant="paper-format"),
            arms={f"{n} examples": epochs(n, 1000) for n in (6250, 25_000, 100_000)},
        ),
    }


@claims.register
class CompositionLearned(Learned):
    """Composition from 20,000 examples, with a pair never trained."""

    name = "composition-learned"
    paper = f"{PAPER}, composition"
    statement = (
        "From 20,000 examples a transformer learns to compose two anchors, and also a pair of them that it was never trained on."
    )
    ground = (
        "Task composition, as first published: key and two anchors in 9 tokens; (3,4) is never trained, but (4,3) is, so that a"
        " model that ignores the order of anchors answers it right as well: what tells these apart are the claims of 2405.05409."
        + SMALLER
    )
    rule = (
        "It replicates if the intervals of accuracy and held_out both lie above 0.9. It does not if one of them lies below. Else,"
        " or if fit is below 0.9 on average, it cannot be told."
    )
    decides = ("accuracy", "held_out")
    published = (
        "Unseen data 1.00, pair (3,4) .942 at the end and 1.00 at most, from 20,000 examples (10 layers of 7 heads); means of 4"
        " runs of the pair: .92 with 4 layers of 4 heads, .99 with 6 of 5, .98 with 8 of 6, 1.00 with 10 of 7."
    )
    reading = (
        "It replicates, from a quarter of the examples as well (.98, and .93 of the held-out pair). The small model needs no 10"
        " layers for it: its mirror is trained, and reading the pair without its order is enough."
    )
    seconds = 55
    scales = {
        "laptop": Arms(seeds=8, base=small("composition", steps=4000), arms=sizes(20_000)),
        "paper": Arms(
            seeds=8,
            base=in_the_paper("composition", n_layer=10, n_head=7, lr=1e-3),
            arms={f"{n} examples": epochs(n, 4000) for n in (1250, 5000, 20_000)},
        ),
    }


@claims.register
class WorkingMemoryLearned(Learned):
    """Working memory from 40,000 examples."""

    name = "working-memory-learned"
    paper = f"{PAPER}, working memory"
    statement = (
        "From 40,000 examples a transformer learns to keep the result of an anchor until a second one comes, at any distance."
    )
    ground = (
        "Task working-memory-two-prompts: 20 tokens, one anchor directly after the key and a second any number of tokens later."
        " The generator is unpublished; (3,4) and (4,3) are never trained, of our own." + SMALLER
    )
    published = "1.00 from 40,000 examples in 1000 epochs, 4 layers of 4 heads."
    reading = (
        "It replicates: four of five seeds are right throughout, one has .89 and would need more steps. Pairs never trained, of"
        " either order, are composed as well, .97: nothing here asks for more than adding two offsets."
    )
    seconds = 110
    scales = {
        "laptop": Arms(
            seeds=5,
            base=small("working-memory-two-prompts", steps=12_000),
            arms={"40000 examples": {"data_size": 40_000, "optimizer.lr": 2e-3}},
        ),
        "paper": Arms(
            seeds=6,
            base=in_the_paper("working-memory-two-prompts", lr=2e-4),
            arms={f"{n} examples": epochs(n, 1000) for n in (2500, 10_000, 40_000)},
        ),
    }
