"""Which gradient path trains a recipe: chosen by the recipe alone, never by what it is trained beside."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from anchorbench.model.gpt import GPT
from anchorbench.parts import models
from anchorbench.recipe import Recipe
from anchorbench.train.gradients.autograd import Autograd
from anchorbench.train.gradients.backprop import Backprop, OneByOne, aligned

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
"""The type of activations and matmuls; None is that of the weights."""
Path = Literal["backprop", "autograd"]


class Gradient(Protocol):
    """Fills `gradients` with those of a batch, and returns losses `[members]`."""

    @property
    def gradients(self) -> Mapping[Any, Tensor]:
        """Parameter -> gradient."""
        ...

    def __call__(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Of `tokens [members, batch, seq]` and `labels [members, batch]`."""
        ...


def gradient_path(recipe: Recipe) -> Path:
    """`backprop`, the hand-written backward pass, for the family that it knows; else `autograd`.

    Raises ValueError with one sentence for a combination that neither knows.
    """
    if models[recipe.model.kind] is GPT:
        return "backprop"
    if PRECISIONS[recipe.precision] is not None:
        raise ValueError(f"models of kind {recipe.model.kind!r} are not trained in {recipe.precision}; allowed: fp32")
    return "autograd"


def make_gradient(recipe: Recipe, model: GPT) -> Gradient:
    """The recipe's gradient path on a stack of its model."""
    path = {"backprop": Backprop, "autograd": Autograd}[gradient_path(recipe)]
    dtype = PRECISIONS[recipe.precision]
    if batched(recipe, model.vocab_size, model.seq_len):
        return path(model, recipe.batch, dtype)
    return OneByOne(model, lambda alone: path(alone, recipe.batch, dtype))


def batched(recipe: Recipe, vocab_size: int, seq_len: int) -> bool:
    """Whether a batched matmul treats all members alike: see `aligned`."""
    return aligned(recipe.model, recipe.batch, vocab_size, seq_len, bf16=recipe.precision == "bf16")
