"""Evaluation during and after training: when members are evaluated, what they answer, and when a verdict counts as settled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from anchorbench.model.gpt import GPT
from anchorbench.recipe import Recipe
from anchorbench.verdict import Behaviour, EvalSet

EVALUATIONS = 12
"""Evaluations during training, at log-spaced steps; the last is the final one."""
EVALUATION_SIZE, FINAL_SIZE = 256, 1000
"""Evaluation sequences per split, during and after training."""
FIRST_EVALUATION = 50
SETTLED_EVALUATIONS, SETTLED_LOSS, SETTLED_EVERY = 3, 0.01, 0.05
"""With `stop: settled`, a member stops early once its last 3 evaluations (at least one per 5% of the steps) give the same verdict
(inferential, memorizing, ordered or symmetric), each with a training loss below 0.01."""


@dataclass(frozen=True)
class Point:
    """A member's state at one step of its trajectory."""

    step: int
    loss: float | None
    """Mean training loss of the batch just trained on; None once the member has diverged."""
    verdict: str | None
    accuracy_train: float
    accuracy_iid: float
    inferential: float | None
    symmetric: float | None
    groups: dict[str, float]
    """Accuracy by group."""

    @classmethod
    def of(cls, step: int, loss: float | None, behaviour: Behaviour) -> "Point":
        """The point for a measured behaviour."""
        return cls(
            step=step,
            loss=loss,
            verdict=behaviour.verdict,
            accuracy_train=behaviour.accuracy_train.value,
            accuracy_iid=behaviour.accuracy_iid.value,
            inferential=behaviour.inferential,
            symmetric=None if behaviour.symmetric is None else behaviour.symmetric.value,
            groups={name: share.value for name, share in behaviour.groups.items()},
        )


def evaluation_steps(recipe: Recipe) -> set[int]:
    """Log-spaced steps, ending with the last; with `stop: settled` also every 5% of the steps."""
    first = min(FIRST_EVALUATION, recipe.steps)
    steps = {round(step) for step in np.geomspace(first, recipe.steps, EVALUATIONS).tolist()} | {recipe.steps}
    if recipe.stop == "settled":
        steps |= set(range(recipe.steps, 0, -max(1, round(SETTLED_EVERY * recipe.steps))))
    return steps


def settled(trajectory: Sequence[Point]) -> bool:
    """Whether the verdict of a member with this trajectory is settled."""
    last = trajectory[-SETTLED_EVALUATIONS:]
    decided = last[-1].verdict in ("inferential", "memorizing", "symmetric")
    calm = all(point.loss is not None and point.loss < SETTLED_LOSS and point.verdict == last[-1].verdict for point in last)
    return len(last) == SETTLED_EVALUATIONS and decided and calm


@torch.no_grad()
def answer_all(model: GPT, eval_sets: list[EvalSet], *, batched: bool = True) -> list[Behaviour]:
    """The behaviour of every member on its own evaluation set; `batched` as `backprop.aligned` says."""
    device = model.token_embedding.device
    tokens = torch.from_numpy(np.stack([eval_set.tokens for eval_set in eval_sets])).to(device)
    if batched:
        answers = _answers(model, tokens)
    else:
        alone = model.like(members=1).to(device)
        answers = np.concatenate(
            [_answers(alone.load_member(model, member), tokens[member : member + 1]) for member in range(model.members)]
        )
    return [eval_set.behaviour(row) for eval_set, row in zip(eval_sets, answers, strict=True)]


def _answers(model: GPT, tokens: Int[Tensor, "members n seq"]) -> Int[np.ndarray, "members n"]:
    return torch.cat([model(part).argmax(-1) for part in tokens.split(EVALUATION_SIZE, dim=1)], dim=1).cpu().numpy()
