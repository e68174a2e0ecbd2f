"""Learned border tokens: vectors before and after the embedded tokens, shared by all sequences.

They are inspired by Pad Net, which learns the padding of a convolution beyond the edge of an image. Pad Net is unpublished, and
nothing here reproduces it. Border tokens before the sequence can be attended to from everywhere, like registers (2309.16588); with
border tokens after it, the answer is read off at the last of them, like pause tokens (2310.02226).

Controls: for equal depth, kind `gpt` with the same fields; for about equal parameters, kind `gpt` with a larger `d_ff`, of which
each unit adds `n_layer * (2 * d_model + 1)` parameters, while the border has `(before + after) * d_model`.
"""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.parts import models


@models.register
class BorderTokensGPT(GPT):
    """The GPT with learned vectors before and after the tokens."""

    class Config(ModelConfig):
        kind: Literal["border-tokens"] = "border-tokens"  # pyright: ignore[reportIncompatibleVariableOverride]
        before: int = Field(default=1, ge=0, le=64)
        """Vectors before the first token."""
        after: int = Field(default=0, ge=0, le=64)
        """Vectors after the last token."""

        @model_validator(mode="after")
        def _has_a_border(self) -> "BorderTokensGPT.Config":
            if not self.before + self.after:
                raise ValueError("before and after are 0; allowed: at least one border token")
            return self

    tables = (*GPT.tables, "border")

    def __init__(self, shape: Any, *, members: int, vocab_size: int, seq_len: int) -> None:
        super().__init__(shape, members=members, vocab_size=vocab_size, seq_len=seq_len)
        self.border = nn.Parameter(torch.empty(members, shape.before + shape.after, shape.d_model))
        self.inside = slice(shape.before, shape.before + seq_len)

    @classmethod
    def positions(cls, shape: Any, seq_len: int) -> int:
        """See `GPT`."""
        return shape.before + seq_len + shape.after

    @classmethod
    def forward_macs(cls, shape: Any, vocab_size: int, seq_len: int) -> int:
        """See `GPT`."""
        return super().forward_macs(shape, vocab_size, cls.positions(shape, seq_len))

    def embed(self, tokens: Tensor) -> Tensor:
        """The embedded tokens between their borders."""
        members, batch, seq = tokens.shape
        x = super().embed(tokens).view(members, batch, seq, -1)
        border = self.border[:, None].expand(-1, batch, -1, -1)
        before = self.inside.start
        return torch.cat([border[:, :, :before], x, border[:, :, before:]], 2).flatten(1, 2)
