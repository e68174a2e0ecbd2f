"""From answers on held-out groups to a verdict: does the model compose, and how does it treat a trained exception?

The two questions are kept separate. `held_out` groups have no trained mirror, so only composition answers them; on the `mirror`
of a trained exception, a model that reads the pair in order composes, and a symmetric one repeats the exception. A symmetric
answer does not prove memorizing: some symmetric models compose every ordinary pair.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int
from pydantic import AfterValidator, BeforeValidator, Field

from anchorbench.intervals import wilson
from anchorbench.task import NO_ANSWER, Examples, Split, Task

# All thresholds. A share counts as above MOST (below FEW) only if its 95% Wilson interval lies entirely above (below) it;
# FIT and AGREE, as in the papers, are compared with the share itself.
FIT = 0.9
"""Minimum accuracy on trained groups, in fresh sequences with trained (key, position): a run below it is underfit.

Held-out groups are asked at trained (key, position), so this is where a model must know the trained ones before it can be asked
whether it composes. Accuracy at unseen (key, position), which 2405.05409 shades by, is another question, and no gate: of the first
board's runs, some answered held-out pairs in 95% of the cases and unseen (key, position) in 85%.
"""
MOST = 0.75
"""An answer type names the solution if at least three quarters of the answers are of that type: far from chance (1/80) and from an
even split, and in prototypes no run with a clear circuit fell below it."""
FEW = 0.25
"""Composing at most a quarter of the answers is memorizing: the mirror image of MOST. In between is mixed."""
AGREE = 0.5
"""A memorizing model commutes if it gives both orders of a pair the same answer more often than not."""

UNTRAINED: tuple[Split, ...] = ("iid", "ood")

Composition = Literal["underfit", "inferential", "memorizing", "mixed"]
Exceptional = Literal["underfit", "ordered", "symmetric", "other"]


def _of_today(word: Any) -> Any:
    return "underfit" if word == "unfit" else word


OfToday = BeforeValidator(_of_today)
"""Reads verdicts recorded when `underfit` was still called `unfit`."""
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]


class Share(NamedTuple):
    """`hits` of `n`, and its 95% Wilson interval."""

    hits: Count
    n: Count

    @property
    def value(self) -> float:
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.hits, self.n)

    def above(self, threshold: float) -> bool:
        return self.interval[0] > threshold

    def below(self, threshold: float) -> bool:
        return self.interval[1] < threshold


def _counts(share: Share) -> Share:
    if not 0 <= share.hits <= share.n or share.n == 0:
        raise ValueError(f"is {share.hits} of {share.n}; allowed: 0 to n hits, n at least 1")
    return share


Counts = Annotated[Share, AfterValidator(_counts)]
"""A share read from an untrusted source."""


def composition_of(seen: float, held_out: tuple[float, float]) -> Composition:
    """The composition verdict, from accuracy on trained groups and the interval of the share of held-out answers that compose.

    The interval follows from the number of answers (`Share.interval`); where that is not recorded, both ends are the share itself.
    """
    low, high = held_out
    if seen < FIT:
        return "underfit"
    if low > MOST:
        return "inferential"
    return "memorizing" if high < FEW else "mixed"


@dataclass(frozen=True)
class EvalSet:
    """The sequences on which behaviour is measured: `n` per split, and the held-out ones with their anchors swapped."""

    task: Task
    examples: dict[Split, Examples]
    fresh: Examples | None
    """Fresh sequences of the training split, if `examples` has those that a run was trained on."""
    mirrored: Int[np.ndarray, "n seq_len"] | None

    @classmethod
    def of(cls, task: Task, n: int, seed: int, train: Examples | None = None) -> "EvalSet":
        """Draws the set; `train` are a run's training examples, if it is a run that is measured."""
        examples: dict[Split, Examples] = {split: task.sample(split, n, seed) for split in task.splits}
        fresh = None
        if train is not None:
            fresh, examples["train"] = examples["train"], train[:n]
        return cls(task, examples, fresh, task.mirror(examples["ood"].tokens) if "ood" in examples else None)

    def head(self, n: int) -> "EvalSet":
        """The first `n` examples per split."""
        examples: dict[Split, Examples] = {split: examples[:n] for split, examples in self.examples.items()}
        fresh, mirrored = self.fresh, self.mirrored
        return EvalSet(self.task, examples, None if fresh is None else fresh[:n], None if mirrored is None else mirrored[:n])

    @property
    def tokens(self) -> Int[np.ndarray, "rows seq_len"]:
        """All sequences, `[rows, seq_len]`, in the order in which `behaviour` expects their answers."""
        parts = [examples.tokens for examples in self.examples.values()]
        parts += [] if self.fresh is None else [self.fresh.tokens]
        return np.concatenate(parts if self.mirrored is None else [*parts, self.mirrored])

    def behaviour(self, answers: Int[np.ndarray, " rows"]) -> "Behaviour":
        """The behaviour of a model, from its `answers [rows]` to `tokens`.

        Of equal held-out sequences, which a task with fewer than `n` of them has, only the first counts.
        """
        at = 0
        sets = dict(self.examples)
        counts: dict[Split, np.ndarray] = {}
        groups: dict[str, Share] = {}
        for split, examples in self.examples.items():
            counts[split] = answers[at : at + len(examples)]
            at += len(examples)
        trained, of_trained = counts["train"], self.examples["train"]
        if self.fresh is not None:
            trained, of_trained = answers[at : at + len(self.fresh)], self.fresh
            at += len(self.fresh)
        swapped = answers[at:]
        ood = sets.get("ood")
        if ood is not None:
            once = np.sort(np.unique(ood.tokens, axis=0, return_index=True)[1])
            sets["ood"] = ood = ood[once]
            counts["ood"] = counts["ood"][once]
            swapped = swapped[once] if self.mirrored is not None else swapped
        for number, group in enumerate(self.task.groups):
            for split in UNTRAINED:
                if split in sets:
                    rows = sets[split].group == number
                    if rows.any():
                        right = counts[split][rows] == sets[split].label[rows]
                        groups[group.name] = Share(int(right.sum()), int(rows.sum()))
        composes = ordered = symmetric = commutes = None
        deviations: dict[int, int] = {}
        if ood is not None:
            roles = np.array([group.role for group in self.task.groups])[ood.group]
            inferential, symmetric_answer = ood.foils["inferential"], ood.foils.get("symmetric")
            composes = _share(counts["ood"] == inferential, roles == "held_out")
            ordered = _share(counts["ood"] == inferential, roles == "mirror")
            if symmetric_answer is not None:
                symmetric = _share(counts["ood"] == symmetric_answer, symmetric_answer != NO_ANSWER)
            if self.mirrored is not None:
                # In plain `conflict` no ordinary pair is held out, so the exception and its mirror are compared.
                asked = roles == "held_out" if (roles == "held_out").any() else roles == "mirror"
                commutes = _share(counts["ood"] == swapped, asked)
            values, times = np.unique(counts["ood"] - inferential, return_counts=True)
            deviations = dict(zip(values.tolist(), times.tolist(), strict=True))
        seen: Split = "iid" if "iid" in self.examples else "train"
        return Behaviour(
            accuracy_train=_require(_share(counts["train"] == self.examples["train"].label)),
            accuracy_seen=_require(_share(trained == of_trained.label)),
            accuracy_iid=_require(_share(counts[seen] == self.examples[seen].label)),
            composes=composes,
            ordered=ordered,
            symmetric=symmetric,
            commutes=commutes,
            groups=groups,
            deviations=deviations,
        )


def _share(hit: np.ndarray, where: np.ndarray | None = None) -> Share | None:
    """Share of `hit [n]` among the rows `where [n]`; None if there are none."""
    hit = hit if where is None else hit[where]
    return Share(int(hit.sum()), len(hit)) if len(hit) else None


def _require(share: Share | None) -> Share:
    if share is None:
        raise ValueError("the evaluation set is empty; allowed: at least one example per split")
    return share


@dataclass(frozen=True)
class Behaviour:
    """What a model answers, as shares; those that do not apply to the task are None."""

    accuracy_train: Share
    """On a run's training examples."""
    accuracy_seen: Share
    """On trained groups at trained (key, position), in fresh sequences: `FIT` is compared with it."""
    accuracy_iid: Share
    """On trained groups at unseen (key, position), or on training examples in a task that trains all of these."""
    composes: Share | None
    """Held-out groups without a trained mirror: share answered by composing."""
    ordered: Share | None
    """The mirror of a trained exception: share answered by composing."""
    symmetric: Share | None
    """The mirror of a trained exception: share answered as the exception was trained."""
    commutes: Share | None
    """Held-out pairs: share whose two orders get the same answer, right or wrong."""
    groups: dict[str, Share]
    """Accuracy per group; for seen groups, at keys and positions that were not trained."""
    deviations: dict[int, int]
    """Answer minus composed answer -> count, over all held-out examples."""

    @property
    def fit(self) -> bool:
        return self.accuracy_seen.value >= FIT

    @property
    def composition(self) -> Composition | None:
        """Composition verdict: does the model compose? None if the task has no held-out group without a trained mirror."""
        return None if self.composes is None else composition_of(self.accuracy_seen.value, self.composes.interval)

    @property
    def exception(self) -> Exceptional | None:
        """Exception verdict: how is the trained exception treated? None if the task has none."""
        if self.ordered is None or self.symmetric is None:
            return None
        if not self.fit:
            return "underfit"
        if self.ordered.above(MOST):
            return "ordered"
        return "symmetric" if self.symmetric.above(MOST) else "other"

    @property
    def verdict(self) -> str | None:
        """The headline verdict: the composition verdict; where only an exception is tested, the paper's terms for its treatment
        (inferential for ordered, symmetric, other); None where nothing is held out.
        """
        if self.composition is not None:
            return self.composition
        return "inferential" if self.exception == "ordered" else self.exception

    @property
    def phase(self) -> str | None:
        """The phase of 2501.08537: 1 poor fit, 2a memorizing without and 2b with commutativity, 3 inferential."""
        if self.composition == "memorizing":
            return "2b" if self.commutes is not None and self.commutes.value > AGREE else "2a"
        return {"underfit": "1", "inferential": "3"}.get(self.composition or "")

    @property
    def inferential(self) -> float | None:
        """Share of held-out examples answered by composing: ordinary pairs, or the exception's mirror if there are none."""
        share = self.composes or self.ordered
        return None if share is None else share.value
