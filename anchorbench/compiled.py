"""The training step's forward and backward pass by autograd on `GPT`, compiled: a fifth faster than `Backprop`, after a wait.

Compiling takes a C++ compiler and a quarter of a minute for each stack size, so it pays for many members of small models only.
Embeddings stay outside: summed in fp32 by an operation whose order never changes.
"""

import warnings
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from anchorbench.model import GPT

COMPILE_SECONDS = 40.0
"""Of one structure, in at most two stack sizes, where nothing is cached: measured on 2 cores, as the next two."""
SAVED_SECONDS_PER_BYTE = 2.2e-11
"""What a compiled member-step saves per byte that a member takes in memory: half a millisecond of 2.7 for the laptop preset."""
LARGEST_MEMBER = 2**27
"""Bytes; of larger ones the arrays are beyond what malloc keeps, and clearing them takes what fusing saves."""


def seconds_saved(members: int, steps: int, memory: float) -> float:
    """What compiling saves on `members` of `memory` bytes each, trained for `steps` on 2 cores, before its own cost."""
    return members * steps * memory * SAVED_SECONDS_PER_BYTE if memory <= LARGEST_MEMBER else 0.0


@cache
def can_compile() -> bool:
    """Whether this machine has what compiling needs, found out by compiling a small function."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of PyTorch about itself
            return bool(torch.compile(lambda x: x + 1)(torch.zeros(2)).sum() == 2)
    except Exception:  # of many kinds: no compiler, no headers, no place for what it writes
        return False


class _Answer(nn.Module):
    """`GPT.answer` as a module, which `functional_call` wants."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.answer(x)


class CompiledBackprop:
    """As `Backprop`: calling it returns losses and fills `gradients`."""

    def __init__(self, model: GPT, dtype: torch.dtype | None = None) -> None:
        """`dtype` is that of activations and products, the weights' own if None; weights are rounded to it for each step."""
        self.model, self._dtype = model, dtype or model.token_embedding.dtype
        self._answer = _Answer(model)
        embeddings = ("token_embedding", "position_embedding")
        self._inner = {name: weight for name, weight in model.named_parameters() if name not in embeddings}
        self._first_row = torch.arange(model.members, device=model.token_embedding.device).view(-1, 1, 1) * model.vocab_size
        self.gradients: dict[nn.Parameter, Tensor] = {}
        self._losses = torch.compile(self._losses_of_embedded, dynamic=False)

    def __call__(self, tokens: Int[Tensor, "members batch seq"], labels: Int[Tensor, "members batch"]) -> Float[Tensor, " members"]:
        """Mean cross-entropy of each member at the last position; its gradient replaces `self.gradients`."""
        model, table = self.model, self.model.token_embedding
        with torch.no_grad():
            x = model.embed(tokens).to(self._dtype)
        with torch.enable_grad():
            losses = self._losses(x.requires_grad_(), labels)
            dx, *gradients = torch.autograd.grad(losses.sum(), [x, *self._inner.values()])
        self.gradients = dict(zip(self._inner.values(), gradients, strict=True))
        dx = dx.to(table.dtype).view(*tokens.shape, -1)
        self.gradients[model.position_embedding] = dx.sum(1)
        rows = (tokens + self._first_row).flatten()
        flat = torch.ops.aten.embedding_dense_backward(dx.flatten(0, 2), rows, table[..., 0].numel(), -1, False)
        self.gradients[table] = flat.view_as(table)
        return losses.detach()

    def _losses_of_embedded(self, x: Tensor, labels: Tensor) -> Tensor:
        rounded = {f"model.{name}": weight.to(self._dtype) for name, weight in self._inner.items()}
        logits = functional_call(self._answer, rounded, (x,)).to(self.model.token_embedding.dtype)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
