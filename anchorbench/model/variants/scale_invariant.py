"""The scale-invariant transformer of SIBERT (2202.00980, section 2 and appendix A), as a causal decoder.

Multiplying all weights but the unembedding's by c > 0 leaves every logit unchanged: so the gradient is orthogonal to the weights,
and their common scale only sets how far a step turns them. Degrees of homogeneity (a value of degree k scales by c^k):

    token and position embeddings               1
    their linear map, the residual stream       2
    norm without gain and bias                  0
    queries, keys, values, hidden layer         1   (only here, biases of degree 1 are allowed)
    scores                                      2
    attention: ReLU, divided by the row's sum   0   (so the output map's values have degree 2)
    output of both sublayers                    2   (like the residual stream they are added to)
    final norm                                  0

A position without positive scores attends to nothing, and attention adds nothing to its residual stream. The paper does not specify
such rows, and its figure of the embedding was not legible: both choices are ours. The norm maps constant rows to zero. There is no
epsilon anywhere, as it would break the invariance.

The paper trains the encoder by SGD without momentum, with weight decay and clipping of kind `relative`. Adaptive optimizers take
steps of the same size whatever the scale of the weights, which defeats the purpose of the architecture.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anchorbench.model.gpt import GPT, Block, Linear, ModelConfig
from anchorbench.parts import models


class PlainNorm(nn.Module):
    """Rows shifted to mean 0 and divided by their standard deviation (degree 0)."""

    def __init__(self, members: int, d: int) -> None:
        super().__init__()

    def forward(self, x: Float[Tensor, "members rows d"]) -> Float[Tensor, "members rows d"]:
        """The normalized rows; a constant row becomes zero."""
        x = x - x.mean(-1, keepdim=True)
        variance = x.square().mean(-1, keepdim=True)
        return x * torch.where(variance > 0, variance, 1.0).rsqrt()


class ScaleInvariantBlock(Block):
    """A block of degree 2, without the biases that would break it."""

    make_norm = PlainNorm

    def __init__(self, members: int, shape: ModelConfig) -> None:
        super().__init__(members, shape)
        self.output.bias = self.ff_out.bias = None

    def pattern(self, scores: Float[Tensor, "heads query key"]) -> Float[Tensor, "heads query key"]:
        """Positive scores divided by their sum; a row without any is zero."""
        positive = scores.relu()
        total = positive.sum(-1, keepdim=True)
        return positive / torch.where(total > 0, total, 1.0)


@models.register
class ScaleInvariantGPT(GPT):
    """The GPT whose logits do not depend on the scale of its weights, except the unembedding's."""

    class Config(ModelConfig):
        kind: Literal["scale-invariant"] = "scale-invariant"  # pyright: ignore[reportIncompatibleVariableOverride]
        norm: Literal["pre"] = "pre"  # pyright: ignore[reportIncompatibleVariableOverride]
        """Norm before each sublayer: after it, it would change the degree of the residual stream."""
        activation: Literal["relu"] = "relu"  # pyright: ignore[reportIncompatibleVariableOverride]
        """ReLU, which is homogeneous; GELU is not."""
        query_norm_only: Literal[False] = False  # pyright: ignore[reportIncompatibleVariableOverride]
        """Keys and values read normalized rows, as queries do."""

    block = ScaleInvariantBlock

    def __init__(self, shape: Any, *, members: int, vocab_size: int, seq_len: int) -> None:
        super().__init__(shape, members=members, vocab_size=vocab_size, seq_len=seq_len)
        self.embedding_map = Linear(members, shape.d_model, shape.d_model, bias=False)

    @classmethod
    def forward_macs(cls, shape: ModelConfig, vocab_size: int, seq_len: int) -> int:
        """See `GPT`."""
        return super().forward_macs(shape, vocab_size, seq_len) + seq_len * shape.d_model**2

    def embed(self, tokens: Tensor) -> Tensor:
        """The residual stream that the first block reads, of degree 2."""
        return self.embedding_map(super().embed(tokens))
