"""The scale-invariant transformer of SIBERT (2202.00980, section 2 and appendix A), as a causal decoder.

Multiply all weights but the unembedding's by c > 0, and every logit stays as it is: so the gradient is orthogonal to the weights,
and their common scale sets nothing but how far a step turns them. Degrees of homogeneity (a value of degree k grows by c^k):

    token and position embeddings               1
    their linear map, the residual stream       2
    norm without gain and bias                  0
    queries, keys, values, hidden layer         1   (biases of degree 1 are allowed here only)
    scores                                      2
    attention: ReLU, divided by the row's sum   0   (so that the output map's values are of degree 2)
    output of both sublayers                    2   (as is the stream that they are added to)
    final norm                                  0

A position all of whose scores are zero or less has a row without a sum: it attends to nothing, and attention adds nothing to its
residual stream. The paper leaves such rows open, and its figure of the embedding could not be read: both are ours. Rows of the norm
that are constant are zero. There is no epsilon anywhere, as it would break the invariance.

The paper trains the encoder by SGD without momentum, with weight decay and clipping of kind `relative`. Adaptive optimizers make
steps of one size whatever the weights' scale, which undoes what the architecture is for.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anchorbench.model.gpt import GPT, Block, Linear, ModelConfig
from anchorbench.parts import models


class PlainNorm(nn.Module):
    """Rows shifted to mean 0 and divided by their standard deviation: of degree 0."""

    def __init__(self, members: int, d: int) -> None:
        super().__init__()

    def forward(self, x: Float[Tensor, "members rows d"]) -> Float[Tensor, "members rows d"]:
        """The normalized rows; a constant row becomes zero."""
        x = x - x.mean(-1, keepdim=True)
        variance = x.square().mean(-1, keepdim=True)
        return x * torch.where(variance > 0, variance, 1.0).rsqrt()


class ScaleInvariantBlock(Block):
    """A block of degree 2, without the biases that would change it."""

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
    """The GPT whose logits do not depend on the scale of its weights, the unembedding's aside."""

    class Config(ModelConfig):
        kind: Literal["scale-invariant"] = "scale-invariant"  # pyright: ignore[reportIncompatibleVariableOverride]
        norm: Literal["pre"] = "pre"  # pyright: ignore[reportIncompatibleVariableOverride]
        """Norms before each sublayer: after it, they would change the degree of the residual stream."""
        activation: Literal["relu"] = "relu"  # pyright: ignore[reportIncompatibleVariableOverride]
        """ReLU, which has a degree; GELU has none."""
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
