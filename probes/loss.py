"""Shared by the probes of weights: the training loss as a function of one vector of all parameters.

It is computed in fp64 on the CPU: at a loss of 1e-6, fp32 resolves only the first digit of 1 - p.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from anchorbench.inspect.open_model import NOT_FINITE, StackModel, open_one
from anchorbench.model.gpt import GPT
from anchorbench.task import Task

MOST_WEIGHTS = 10_000_000
"""Largest model for probes that keep dozens of vectors of its size: 40 of them take 3 GB."""
Vector = Float[Tensor, " weight"]


@dataclass(frozen=True)
class Sequences:
    """Sequences and their answers."""

    tokens: Int[Tensor, "n seq"]
    labels: Int[Tensor, " n"]

    def parts(self, count: int) -> "list[Sequences]":
        """The sequences in `count` parts of equal size."""
        return [Sequences(*part) for part in zip(self.tokens.chunk(count), self.labels.chunk(count), strict=True)]


Loss = Callable[[Vector, Sequences], Float[Tensor, ""]]


def open_own(probe: str, model: object, task: Task) -> tuple[StackModel, Task]:
    """Opens one of this package's models and its task. Raises ValueError as `open_one` does, and for any other model."""
    opened, task = open_one(model, task)
    if not isinstance(opened, StackModel):
        raise ValueError(f"probe {probe} changes or differentiates weights, so it takes only runs of this package; give a run")
    return opened, task


def require_small(probe: str, model: GPT) -> None:
    """Raises ValueError for a model of more than MOST_WEIGHTS."""
    size = sum(parameter.numel() for parameter in model.parameters())
    if size > MOST_WEIGHTS:
        raise ValueError(f"probe {probe} keeps dozens of gradients; the model has {size} weights; allowed: at most {MOST_WEIGHTS}")


def copy_of(opened: StackModel) -> GPT:
    """An fp64 copy of a stack of one on the CPU, which can be changed without changing the model itself."""
    return copy.deepcopy(opened.module).double().cpu().requires_grad_(False)


def training_sequences(task: Task, n: int, seed: int) -> Sequences:
    """`n` fresh sequences of the training split."""
    examples = task.sample("train", n, seed)
    return Sequences(torch.from_numpy(examples.tokens), torch.from_numpy(examples.label))


def in_one_vector(model: GPT) -> Vector:
    """All parameters, in the order of `named_parameters`."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def loss_of(model: GPT) -> Loss:
    """The mean cross-entropy at the last position, without penalties, as a function of all parameters in one vector.

    torch.func can differentiate it.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def loss(weights: Tensor, data: Sequences) -> Tensor:
        parts = weights.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        logits = cast(Any, torch.func.functional_call)(model, named, (data.tokens[None],))
        return cross_entropy(logits[0], data.labels)

    return loss


def generator(seed: int) -> torch.Generator:
    """A random generator whose numbers are the same on every machine."""
    return torch.Generator("cpu").manual_seed(seed)


def normal(like: Float[Tensor, "*shape"], source: torch.Generator) -> Float[Tensor, "*shape"]:
    """Independent standard normal numbers in the shape of `like`."""
    return torch.randn(like.shape, generator=source, dtype=like.dtype, device="cpu")


def require_finite(*values: Tensor) -> None:
    """Raises ValueError if a loss or one of its derivatives is NaN or infinite."""
    if not all(value.isfinite().all() for value in values):
        raise ValueError(NOT_FINITE)
