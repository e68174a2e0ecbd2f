"""Attention on the key: how much of it does the last position give to the key, layer by layer?

The control is an untrained model with the same config. Attention to a position does not prove that its content is used.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from anchorbench.inspect.open_model import OpenModel, open_one
from anchorbench.probes.reading import read, trained_examples
from anchorbench.probes.score import Score, draw_scores, mean_score
from anchorbench.task import Examples, Task


@dataclass(frozen=True)
class AttentionOnKey:
    """Mean share of attention over sequences for each layer, counted from 0, with its 95% interval."""

    table: dict[str, Score]
    does_not_show: str = "Attention to a position does not prove that its content is used."
    size: ClassVar[tuple[float, float]] = (4.6, 1.9)

    def scores(self) -> dict[str, Score]:
        return self.table

    def draw(self, figure: Any) -> None:
        """One row per layer."""
        axes = figure.subplots()
        draw_scores(axes, self.table)
        axes.set(xlim=(-0.02, 1.02), xlabel="attention of the last position on the key (share)")
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=2)


def attention_on_key(model: object, task: Task, n: int = 500, seed: int = 0) -> AttentionOnKey:
    """Attention of the last position to the key on `n` sequences of trained groups, averaged over heads.

    `model` is anything that `anchorbench.classify` accepts. Raises ValueError as `classify` does, for fewer than two sequences, and
    for a task without a key.
    """
    if n < 2:
        raise ValueError(f"n is {n}; allowed: at least 2 sequences, so that there is an interval")
    opened, task = open_one(model, task)
    examples = trained_examples(task, n, seed)
    if (examples.position < 0).any():
        raise ValueError(f"probe attention_on_key needs a task with a key; {task.name} has none")
    found, control = (on_key(which, examples) for which in (opened, opened.untrained(seed)))
    return AttentionOnKey(
        {
            f"layer_{layer}": mean_score(shares, float(untrained.mean())).within(0, 1)
            for layer, (shares, untrained) in enumerate(zip(found, control, strict=True))
        }
    )


def on_key(opened: OpenModel, examples: Examples) -> list[Float[np.ndarray, " n"]]:
    """The share of attention in each sequence, per layer."""
    of_last = read(opened, examples.tokens, lambda a: [pattern[:, :, :, -1].mean(2) for pattern in a.patterns])
    return [given[0, np.arange(len(examples)), examples.position] for given in of_last]
