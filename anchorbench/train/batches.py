"""The training examples of a stack's members, and the batches of each step."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from anchorbench.recipe import Recipe
from anchorbench.seeds import stream_seed
from anchorbench.task import Examples, Task

ORDER_BLOCK = 64
"""Steps whose batches are drawn together; a step's batch depends only on its number and the seed."""


class Source(NamedTuple):
    """What determines the training examples."""

    fingerprint: str
    seed: int
    size: int


class Draw(NamedTuple):
    """What determines a member's batches; members with equal draws share them."""

    source: Source
    order_seed: int


class Batches:
    """Draws every member's batch of each step."""

    def __init__(self, recipes: Sequence[Recipe], tasks: Sequence[Task], device: torch.device, head: int) -> None:
        """Samples the examples; `head` of them are kept for each member's evaluation."""
        self._examples: dict[Source, tuple[Tensor, Tensor]] = {}
        self._draws: list[Draw] = []
        self.heads: list[Examples] = []
        """Each member's first examples."""
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
        self._orders: dict[bool, tuple[int, dict[Draw, Int[Tensor, "step batch"]]]] = {}
        """The last block drawn and its contents, for training steps and for negative ones."""

    def batch(self, step: int) -> tuple[Int[Tensor, "members batch seq"], Int[Tensor, "members batch"]]:
        """Tokens `[members, batch, seq]` and labels `[members, batch]` of a step, drawn with replacement.

        Negative steps have separate batches, which are never trained on.
        """
        block, row = divmod(abs(step), ORDER_BLOCK)
        orders = self._block(block, extra=step < 0)
        drawn: dict[Draw, tuple[Tensor, Tensor]] = {}
        for draw in self._distinct:
            tokens, labels = self._examples[draw.source]
            rows = orders[draw][row]
            drawn[draw] = tokens[rows].long(), labels[rows].long()
        tokens, labels = zip(*(drawn[draw] for draw in self._draws), strict=True)
        return torch.stack(tokens), torch.stack(labels)

    def examples(self) -> list[tuple[Int[Tensor, "size seq"], Int[Tensor, " size"]]]:
        """Tokens and labels of each member's training examples, in int16."""
        return [self._examples[draw.source] for draw in self._draws]

    def orders(self, steps: range) -> list[Int[Tensor, "steps batch"]]:
        """Indices of the examples in each member's batches, for consecutive steps of one block."""
        block, first = divmod(steps[0], ORDER_BLOCK)
        orders = self._block(block, extra=False)
        return [orders[draw][first : first + len(steps)] for draw in self._draws]

    def _block(self, block: int, *, extra: bool) -> dict[Draw, Int[Tensor, "step batch"]]:
        if self._orders.get(extra, (-1,))[0] != block:
            self._orders[extra] = block, {draw: self._order(draw, block, extra=extra) for draw in self._distinct}
        return self._orders[extra][1]

    def _order(self, draw: Draw, block: int, *, extra: bool) -> Int[Tensor, "step batch"]:
        rng = np.random.default_rng([draw.order_seed, block, *([1] if extra else [])])
        return torch.from_numpy(rng.integers(draw.source.size, size=(ORDER_BLOCK, self._batch))).to(self._device)
