"""What the claims that train models share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from anchorbench.train.stack import Stack


def train(stack: Stack, looks: int, also: Callable[[], None] = lambda: None) -> list[int]:
    """Trains to the end of the recipes; at so many evenly spaced steps, which are returned, evaluates and does whatever else."""
    steps = stack.recipes[0].steps
    at = [steps * look // looks for look in range(1, looks + 1)]
    for look in at:
        losses = stack.advance(look)
        while stack.step < look:
            losses = stack.advance(look)
        stack.evaluate(losses)
        also()
    return at


def scale_encoder(stack: Stack, factors: Sequence[float]) -> None:
    """Multiplies each member's matrices, but for the unembedding's, by its factor; in a new model biases are zero anyway."""
    for (name, role), view in zip(stack.model.roles().items(), stack.layout.views(stack.weights), strict=True):
        if role.what == "matrix" and not name.startswith("unembedding"):
            view.mul_(torch.tensor(factors).view(-1, 1, 1))


@dataclass(frozen=True)
class Shares:
    """What the members of a stack answer, `[arms, seeds]` at the end of training and `[arms, seeds, looks]` on the way."""

    accuracy: Float[np.ndarray, "arms seeds"]
    """At unseen keys and positions."""
    accuracies: Float[np.ndarray, "arms seeds looks"]
    composed: Float[np.ndarray, "arms seeds"]
    """Share of answers to held-out pairs that compose."""

    @classmethod
    def of(cls, stack: Stack, arms: int) -> "Shares":
        """The shares of a trained stack, whose members are ordered by arm."""
        members = stack.members()
        accuracy, composed, looks = (
            np.array(values, float)
            for values in (
                [member.behaviour.accuracy_iid.value for member in members],
                [member.behaviour.inferential for member in members],
                [[point.accuracy_iid for point in member.trajectory] for member in members],
            )
        )
        return cls(accuracy.reshape(arms, -1), looks.reshape(arms, len(members) // arms, -1), composed.reshape(arms, -1))
