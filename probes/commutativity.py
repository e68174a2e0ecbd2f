"""Commutativity: does a model give a pair and its mirror the same answer? (2501.08537, phases 2a and 2b)

Answers to held-out pairs are behaviour: this probe describes a model and never decides a mechanism. A composing model commutes
because addition does; a memorizing one commutes if it stores unordered pairs.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from anchorbench.inspect.open_model import open_one
from anchorbench.task import Examples, Task
from anchorbench.verdict import Share

from .reading import trained_examples
from .score import Score, draw_scores

HELD_OUT, TRAINED = "held_out", "trained"


@dataclass(frozen=True)
class Commutativity:
    """How often both orders get the same answer, right or wrong, with 95% Wilson intervals, on held-out pairs (or on the
    exception's mirror, where a task holds out nothing else) and on trained ones; the control pairs the answers at random.
    """

    table: dict[str, Score]
    does_not_show: str = "Models that compose commute, and so do models that store unordered pairs; agreement does not tell which."
    size: ClassVar[tuple[float, float]] = (4.6, 1.9)

    def scores(self) -> dict[str, Score]:
        return self.table

    def draw(self, figure: Any) -> None:
        """One row each for held-out and trained pairs."""
        axes = figure.subplots()
        draw_scores(axes, {name.replace("_", "-") + " pairs": score for name, score in self.table.items()})
        axes.set(xlim=(-0.02, 1.02), xlabel="both orders get the same answer (share)")
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=2)


def commutativity(model: object, task: Task, n: int = 1000, seed: int = 0) -> Commutativity:
    """Agreement between the answers to `n` sequences each of held-out and trained pairs and the answers to their mirrors.

    `model` is anything that `anchorbench.classify` accepts. Raises ValueError as `classify` does, for n below 1, and for a task
    whose anchors cannot be swapped.
    """
    if n < 1:
        raise ValueError(f"n is {n}; allowed: at least 1")
    opened, task = open_one(model, task)
    table: dict[str, Score] = {}
    for name, examples in _asked(task, n, seed).items():
        mirrored = task.mirror(examples.tokens)
        if mirrored is None:
            raise ValueError(f"probe commutativity needs a task whose two anchors can be swapped; those of {task.name} cannot")
        if len(examples):
            table[name] = agreement(*(opened.answers(tokens)[0] for tokens in (examples.tokens, mirrored)))
    if not table:
        raise ValueError(
            f"probe commutativity needs a task with a pair of two different anchors and its mirror; {task.name} has none"
        )
    return Commutativity(table)


def agreement(answers: Int[np.ndarray, " n"], mirrored: Int[np.ndarray, " n"]) -> Score:
    """How often the two are equal, and how often they would be if paired at random."""
    share = Share(int((answers == mirrored).sum()), len(answers))
    counts = [np.bincount(given, minlength=1 + max(answers.max(), mirrored.max())) / len(given) for given in (answers, mirrored)]
    return Score(share.value, *share.interval, float(counts[0] @ counts[1]))


def _asked(task: Task, n: int, seed: int) -> dict[str, Examples]:
    """Held-out examples that also enter the verdict, and trained ones with two different anchors and a trained mirror."""
    roles = np.array([group.role for group in task.groups])
    asked: dict[str, Examples] = {}
    if "ood" in task.splits:
        examples = task.sample("ood", n, seed)
        role = roles[examples.group]
        asked[HELD_OUT] = examples[role == (HELD_OUT if (role == HELD_OUT).any() else "mirror")]
    examples = trained_examples(task, n, seed)
    mirrored = task.mirror(examples.tokens)
    if mirrored is not None:
        with_rule = (roles[examples.group] == TRAINED) & (roles[task.answer(mirrored).group] == TRAINED)
        examples = examples[with_rule & (mirrored != examples.tokens).any(1)]
    asked[TRAINED] = examples
    return asked
