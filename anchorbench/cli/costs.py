"""What a sweep costs, before it is trained: time from a few steps of each kind of stack, memory, and disk."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from anchorbench.model.counts import parameters
from anchorbench.recipe import Recipe

TIMED_STEPS = 5
ROW_BYTES, FILES_BYTES = 1500, 15_000
"""Sizes of a run's row in the tables, and of its files besides the weights."""


class Cost(NamedTuple):
    """The cost of all stacks of one kind."""

    recipe: Recipe
    members: int
    """Members per stack."""
    stacks: int
    step: float
    """Seconds per step of one stack, averaged over its growth."""

    @property
    def seconds(self) -> float:
        return self.step * self.recipe.steps * self.stacks


def costs(planned: Sequence[Sequence[Recipe]]) -> Iterator[Cost]:
    """One per kind of stack; trains a few steps of each on this machine."""
    from anchorbench.train.stack import Stack, structure

    kinds: dict[tuple[Any, ...], list[Sequence[Recipe]]] = {}
    for stack in planned:
        kinds.setdefault((*structure(stack[0]), len(stack)), []).append(stack)
    for alike in kinds.values():
        recipe = alike[0][0]
        trained = Stack(alike[0])
        trained.advance()
        start = time.perf_counter()
        for _ in range(TIMED_STEPS):
            trained.advance()
        each = (time.perf_counter() - start) / TIMED_STEPS
        grown = recipe.macs_per_step() / recipe.override({"growth": []}).macs_per_step()  # the initial model is timed
        yield Cost(recipe, len(alike[0]), len(alike), each * grown)


def bytes_on_disk(recipes: Sequence[Recipe], kept: int) -> int:
    """Size of the runs' folders and rows, with weights and two moments at each of `kept` intermediate steps."""
    sizes: dict[Any, int] = {}
    total = 0
    for recipe in recipes:
        task = recipe.load_task()
        shape = (recipe.model_at(recipe.steps), task.vocab_size, task.seq_len)
        if shape not in sizes:
            sizes[shape] = parameters(*shape)
        total += 4 * sizes[shape] * (1 + 3 * kept) + FILES_BYTES + ROW_BYTES
    return total
