"""Shared by the probes: reading activations in batches, and sequences of trained groups."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anchorbench.inspect.open_model import Activations, OpenModel
from anchorbench.task import Examples, Task

BATCH = 1024
"""Sequences per batch, over all members."""


def read(
    opened: OpenModel, tokens: Int[np.ndarray, "n seq"], pick: Callable[[Activations], list[Tensor]]
) -> list[Float[np.ndarray, "members n ..."]]:
    """What `pick` selects from the activations, each `[members, batch, ...]`, concatenated over all `n` sequences."""
    batches = torch.from_numpy(tokens).split(max(1, BATCH // opened.members))
    parts = [[x.float().cpu().contiguous() for x in pick(opened.run(batch))] for batch in batches]  # copies, not views
    return [torch.cat(arrays, 1).numpy() for arrays in zip(*parts, strict=True)]


def trained_examples(task: Task, n: int, seed: int) -> Examples:
    """`n` examples of trained groups, at unseen positions of their keys if the task has such a split."""
    return task.sample("iid" if "iid" in task.splits else "train", n, seed)
