"""The training examples of a stack's members, and which of them each step sees."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from anchorbench.model.initialize import stream_seed
from anchorbench.recipe import Recipe
from anchorbench.task import Examples, Task

ORDER_BLOCK = 64
"""Steps whose batches are drawn together; which examples a step sees depends on its number and the seed alone."""


class Source(NamedTuple):
    """What training examples follow from."""

    fingerprint: str
    seed: int
    size: int


class Draw(NamedTuple):
    """What the batches of a member follow from; members for which it is the same share theirs."""

    source: Source
    order_seed: int


class Batches:
    """Draws every member's batch of each step."""

    def __init__(self, recipes: Sequence[Recipe], tasks: Sequence[Task], device: torch.device, head: int) -> None:
        """Samples the examples; `head` of them are kept for each member's evaluation."""
        self._examples: dict[Source, tuple[Tensor, Tensor]] = {}
        self._draws: list[Draw] = []
        self.heads: list[Examples] = []
        """The first examples of each member."""
        heads: dict[Source, Examples] = {}
        for recipe, task in zip(recipes, tasks, strict=True):
            source = Source(task.fingerprint, recipe.seeds.data, recipe.data_size)
            if source not in self._examples:
                examples = task.sample("train", source.size, source.seed)
                tokens, labels = (
                    torch.as_tensor(array, dtype=torch.int16, device=device) for array in (examples.tokens, examples.label)
                )
                self._examples[source] = (tokens, labels)
                heads[source] = examples[:head]
            self._draws.append(Draw(source, stream_seed(recipe.seeds.order, "order")))
            self.heads.append(heads[source])
        self._distinct = list(dict.fromkeys(self._draws))
        self._batch, self._device = recipes[0].batch, device
        self._block, self._orders = -1, dict[Draw, Int[Tensor, "step batch"]]()

    def batch(self, step: int) -> tuple[Int[Tensor, "members batch seq"], Int[Tensor, "members batch"]]:
        """Tokens `[members, batch, seq]` and labels `[members, batch]` of a step, drawn with replacement."""
        block, row = divmod(step, ORDER_BLOCK)
        if block != self._block:
            self._block = block
            for draw in self._distinct:
                rng = np.random.default_rng([draw.order_seed, block])
                order = rng.integers(draw.source.size, size=(ORDER_BLOCK, self._batch))
                self._orders[draw] = torch.from_numpy(order).to(self._device)
        drawn: dict[Draw, tuple[Tensor, Tensor]] = {}
        for draw in self._distinct:
            tokens, labels = self._examples[draw.source]
            rows = self._orders[draw][row]
            drawn[draw] = tokens[rows].long(), labels[rows].long()
        tokens, labels = zip(*(drawn[draw] for draw in self._draws), strict=True)
        return torch.stack(tokens), torch.stack(labels)
