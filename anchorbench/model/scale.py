"""Scale of a model's matrices: their standard deviation, and the initialization rate that would give it (effective gamma).

A rate gamma draws a matrix with d_in inputs from N(0, d_in^(-2 gamma)), so gamma = -ln(std) / ln(d_in); common defaults correspond
to about 0.5. Training and weight decay change the scale: for a trained model, this describes the weights, not the recipe.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from anchorbench.model.gpt import GPT, Linear


class Scale(NamedTuple):
    """One matrix: inputs, outputs, standard deviation, and effective gamma (None if it has one input or is zero)."""

    d_in: int
    d_out: int
    std: float
    gamma: float | None


def scales(model: nn.Module) -> dict[str, Scale]:
    """Name -> scale of every embedding (whose d_in is the model's width) and linear map, of a stack of one or any other module."""
    found: dict[str, Scale] = {}
    for name, weight in _matrices(model):
        std, (d_in, d_out) = float(weight.double().std(correction=0)), weight.shape
        gamma = -math.log(std) / math.log(d_in) if d_in > 1 and 0 < std < math.inf else None
        found[name] = Scale(d_in, d_out, std, gamma)
    return found


def _matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, matrix as `[d_in, d_out]`)."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(model, GPT):
        yield "token_embedding", model.token_embedding.detach()[0].T
        yield "position_embedding", model.position_embedding.detach()[0].T
    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        if isinstance(module, Linear):
            yield name, weight.detach()[0]
        elif isinstance(module, nn.Linear | nn.Embedding):
            yield name, weight.detach().T
        elif isinstance(module, Conv1D):
            yield name, weight.detach()


def in_words(found: dict[str, Scale]) -> str:
    """One line: the rates of each kind of matrix over the layers."""
    kinds: dict[str, list[float]] = {}
    for name, scale in found.items():
        if scale.gamma is not None:
            kinds.setdefault(name.rpartition(".")[2], []).append(scale.gamma)
    ranges = [(kind, f"{min(rates):.2f}", f"{max(rates):.2f}") for kind, rates in kinds.items()]
    return ", ".join(f"{kind} {low}" + (f" to {high}" if high != low else "") for kind, low, high in ranges)
