"""Which gradient path trains a recipe: chosen by the recipe and the machine, never by the other members of its stack."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from anchorbench import machine
from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.parts import models
from anchorbench.recipe import Recipe
from anchorbench.train.gradients import native
from anchorbench.train.gradients.autograd import Autograd
from anchorbench.train.gradients.backprop import Backprop, OneByOne, aligned
from anchorbench.train.seams import ActivationPenalty

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "tf32": None}
"""Precision -> dtype of activations and matmuls; None means that of the weights."""
Path = Literal["native", "backprop", "autograd"]


class Gradient(Protocol):
    """Computes the gradients of a batch into `gradients`, and returns losses `[members]`."""

    @property
    def gradients(self) -> Mapping[Any, Tensor]:
        """Parameter -> gradient."""
        ...

    def __call__(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Takes `tokens [members, batch, seq]` and `labels [members, batch]`."""
        ...


def gradient_path(recipe: Recipe) -> Path:
    """`autograd` for every recipe that needs it; otherwise `native`, the compiled step, for fp32 on a CPU that can run it, and
    `backprop`, the hand-written backward pass in torch, for the rest. Raises ValueError for an unsupported precision.
    """
    if recipe.precision == "tf32" and not torch.cuda.is_available():
        raise ValueError("precision is tf32; allowed without a GPU: fp32 or bf16")
    if recipe.needs_autograd is not None:
        return "autograd"
    return "native" if suits_native(recipe) and native.available() else "backprop"


def suits_native(recipe: Recipe) -> bool:
    """Whether the compiled step would train the recipe if this machine can run it; compiles nothing to find out."""
    single = recipe.precision == "fp32" and torch.get_default_dtype() == torch.float32
    return single and recipe.needs_autograd is None and not torch.cuda.is_available()


def continued_path(recorded: str, recipe: Recipe) -> Path:
    """The path on which to continue training that `Machine.gradient` recorded; a stack is trained on one path throughout.

    Raises ValueError if this machine does not have it.
    """
    before, chosen = recorded.partition(" ")[0], gradient_path(recipe)
    if before == "backprop" and chosen == "native":
        return "backprop"
    if before != chosen:
        raise ValueError(f"its gradient path is {before}, and {chosen} here; a stack is trained on one path throughout")
    return chosen


NATIVE_WIDTH = 128
"""Up to this width the compiled step in fp32 is as fast as torch in bf16, even on a CPU with AMX: measured on Sapphire Rapids, two
threads, as time in fp32 / time in bf16: 0.6 at width 64, 0.9 at 96, 0.9 to 1.2 at 128, 1.1 to 1.9 at 192, 1.5 to 1.9 at 256, and
2.2 to 2.6 at 400, for batches from 128 to 2048."""


def auto_precision(recipe: Recipe) -> str:
    """The precision that trains an fp32 recipe fastest here: bf16 on GPUs and CPUs that multiply matrices in it, except for models
    that the compiled step trains faster in fp32, and for recipes that allow only fp32.
    """
    if recipe.needs_autograd is not None or not machine.native_bf16():
        return "fp32"
    if recipe.model.d_model <= NATIVE_WIDTH and suits_native(recipe) and native.available():
        return "fp32"
    return "bf16"


def make_gradient(recipes: Sequence[Recipe], model: GPT, penalties: Sequence[ActivationPenalty]) -> Gradient | Autograd:
    """The torch gradient path for recipes of one structure, on a stack of their model, with activation penalties."""
    recipe = recipes[0]
    together = batched(recipe, model.shape, model.vocab_size, model.seq_len)
    if recipe.needs_autograd is not None:
        return Autograd(model, recipes, penalties, together=together)

    def path(model: GPT) -> Gradient:
        return Backprop(model, recipe.batch, PRECISIONS[recipe.precision])

    return path(model) if together else OneByOne(model, path)


def batched(recipe: Recipe, shape: ModelConfig, vocab_size: int, seq_len: int) -> bool:
    """Whether a batched matmul treats all members alike while the recipe's model has this config: see `aligned`."""
    length = models[shape.kind].positions(shape, seq_len)
    return aligned(shape, recipe.batch, vocab_size, length, bf16=recipe.precision == "bf16")
