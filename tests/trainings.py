"""Recipes that are trained in a second, beside others and beside one that diverges, and how their stacks are compared."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from anchorbench.recipe import Recipe
from anchorbench.train.stack import Stack

TINY = Recipe().override(
    {
        "model.d_model": 8,
        "model.d_head": 5,
        "model.n_head": 2,
        "model.d_ff": 12,
        "batch": 16,
        "steps": 50,
        "data_size": 400,
        "optimizer.lr": 1e-2,
        "optimizer.weight_decay": 0.1,
        "optimizer.warmup": 10,
    }
)
MIXED: list[dict[str, Any]] = [
    {},
    {"init.gamma": 0.8, "optimizer.lr": 3e-3, "optimizer.schedule": "linear", "optimizer.beta2": 0.95, "seed": 1},
    {"optimizer.weight_decay": 1.0, "optimizer.clip": 0.1},
    {"init.gamma": 0.3, "optimizer.decay": "coupled", "optimizer.decay_embeddings": False, "seed": 2},
]
DIVERGING: dict[str, Any] = {"init.gamma": -2.0, "optimizer.lr": 100.0, "optimizer.weight_decay": 1000.0}
"""Weights grow a hundred thousandfold a step: infinite after eight."""


@contextmanager
def quickly() -> Iterator[None]:
    """Small evaluation sets, and one thread: matrices this small lose time to a second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anchorbench.train.evaluation.EVALUATION_SIZE", 64)
        patch.setattr("anchorbench.train.evaluation.FINAL_SIZE", 150)
        yield
    torch.set_num_threads(threads)


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def advanced(stack: Stack, steps: int) -> Stack:
    for _ in range(steps):
        losses = stack.advance()
    stack.evaluate(losses)
    return stack
