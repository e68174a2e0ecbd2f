"""Shared by the probes: opening one model with its own task, reading activations in batches, sequences of trained groups."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anchorbench.hub.models import require_vocabulary, with_own_task
from anchorbench.inspect.internals import Activations, Internals, open_internals
from anchorbench.task import Examples, Task

BATCH = 1024
"""Sequences per batch, over all members."""


def open_one(model: object, task: Task) -> tuple[Internals, Task]:
    """Opens one model and the task that it was trained on.

    Raises ValueError as `anchorbench.classify` does, and for a stack of several members.
    """
    model, task = with_own_task(model, task)
    opened = open_internals(model)
    if opened.members != 1:
        raise ValueError(f"the stack has {opened.members} members; allowed: 1, pick one first")
    require_vocabulary(opened.vocab_size, task)
    return opened, task


def read(
    opened: Internals, tokens: Int[np.ndarray, "n seq"], pick: Callable[[Activations], list[Tensor]]
) -> list[Float[np.ndarray, "members n ..."]]:
    """What `pick` selects from the activations, each `[members, batch, ...]`, concatenated over all `n` sequences."""
    batches = torch.from_numpy(tokens).split(max(1, BATCH // opened.members))
    parts = [[x.float().cpu().contiguous() for x in pick(opened.run(batch))] for batch in batches]  # copies, not views
    return [torch.cat(arrays, 1).numpy() for arrays in zip(*parts, strict=True)]


def trained_examples(task: Task, n: int, seed: int) -> Examples:
    """`n` examples of trained groups, at unseen positions of their keys if the task has such a split."""
    return task.sample("iid" if "iid" in task.splits else "train", n, seed)
